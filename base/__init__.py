"""What every package needs: errors, commands' beginning and end, files and their owners, untrusted input, boxes."""
