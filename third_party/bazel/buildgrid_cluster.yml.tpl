# BuildGrid as a cluster: results of actions and scheduler. Its queue lies in PostgreSQL, its content in buildbox-casd. It answers
# as many requests at once as it has threads and refuses more: Bazel's --remote_max_connections times 100.
server:
  - !channel
    address: 127.0.0.1:@port@
    insecure-mode: true
description: cluster
authorization:
  method: none
connections:
  - !sql-connection &queue
    connection-string: @database@
    pool-size: 10
    max-overflow: 20
storages:
  - !remote-storage &content
    url: http://127.0.0.1:@store@
    instance-name: ''
caches:
  - !lru-action-cache &results
    storage: *content
    max-cached-refs: 10000
    allow-updates: true
    cache-failed-actions: false
schedulers:
  - !sql-scheduler &state
    storage: *content
    sql: *queue
    action-cache: *results
    property-set:
      !dynamic-property-set
        match-property-keys: [OSFamily]
        wildcard-property-keys: []
    assigners:
      - !priority-age-assigner
        count: 1
        interval: 0.5
        priority-assignment-percentage: 100
instances:
  - name: ''
    services:
      - !action-cache
        cache: *results
      - !execution
        scheduler: *state
      - !cas
        storage: *content
      - !bytestream
        storage: *content
thread-pool-size: 400
