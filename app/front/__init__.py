"""What stands ahead of Flask: early answers from the cache, security headers and HTTPS, static files, the log."""
