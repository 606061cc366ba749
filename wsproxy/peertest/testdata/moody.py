"""A server that gives up on slow bodies after a second, and destroys upgrades unanswered: moody.py HOST PORT"""
import http.server
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 1

    def do_GET(self):
        if "Upgrade" in self.headers:
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length", 0))
        try:
            self.rfile.read(length)
        except TimeoutError:
            self.close_connection = True
            return
        body = bytes(1 << 20) if self.path == "/big" else b"ok"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
