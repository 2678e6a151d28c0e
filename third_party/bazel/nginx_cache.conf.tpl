# A cache for Bazel (HTTP): one address that writes, for CI, and one that reads, for people.
daemon off;
user @user@;
worker_processes 2;
pid @work@/pid;
error_log @work@/error.log;
events {}
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path @work@/tmp/body;
  proxy_temp_path @work@/tmp/proxy;
  fastcgi_temp_path @work@/tmp/fastcgi;
  uwsgi_temp_path @work@/tmp/uwsgi;
  scgi_temp_path @work@/tmp/scgi;
  root @work@/data;
  server {
    listen 127.0.0.1:@writer@;
    location / { dav_methods PUT; create_full_put_path on; }
  }
  server {
    listen 127.0.0.1:@reader@;
    location / { limit_except GET { deny all; } }
  }
}
