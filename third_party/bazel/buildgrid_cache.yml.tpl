# BuildGrid as a cache (gRPC): content by digest and results of actions, in a folder and in memory.
server:
  - !channel
    address: 127.0.0.1:@port@
    insecure-mode: true
description: cache
authorization:
  method: none
storages:
  - !disk-storage &content
    path: @work@/cas
caches:
  - !lru-action-cache &results
    storage: *content
    max-cached-refs: 10000
    allow-updates: true
    cache-failed-actions: false
instances:
  - name: ''
    services:
      - !action-cache
        cache: *results
      - !cas
        storage: *content
      - !bytestream
        storage: *content
thread-pool-size: 50
