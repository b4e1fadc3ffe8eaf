"""A site under gunicorn: /srv/site/gunicorn.conf.py. See docs/behind-nginx.md."""

wsgi_app = 'olpc_update_query.server.app:create_app("/srv/site")'
bind = "unix:/run/olpc-update-admin/socket"
# One for each processor core; nginx has read a query whole before a worker sees it.
workers = 2
worker_class = "gthread"
threads = 8
# A worker that stands still is replaced; one that has served long is renewed.
timeout = 60
max_requests = 100_000
max_requests_jitter = 10_000
# Nobody has to talk to it but systemd.
control_socket_disable = True
