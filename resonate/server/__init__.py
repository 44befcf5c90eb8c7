"""What runs in a worker process: the gunicorn worker, sockets, connections, the hub. The one home of gevent."""
