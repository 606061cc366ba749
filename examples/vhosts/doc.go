// Command vhosts balances virtual hosts whose backends are in Redis, in the schema of hipache.
// Users of hipache can move to it. It adds sticky sessions, close frames for WebSockets,
// certificates by SNI, and metrics.
//
// Start Redis and the program, in a clone of the repository:
//
//	redis-server --port 6379 &
//	go -C examples/vhosts run . -admin 127.0.0.1:9090 -debug
//
// Start two backends, add them as a virtual host, and send a request:
//
//	python3 -m http.server 8001 --bind 127.0.0.1 &
//	python3 -m http.server 8002 --bind 127.0.0.1 &
//	redis-cli rpush frontend:www.dotcloud.com mywebsite
//	redis-cli rpush frontend:www.dotcloud.com http://127.0.0.1:8001
//	redis-cli rpush frontend:www.dotcloud.com http://127.0.0.1:8002
//	curl -si -H 'Host: www.dotcloud.com' -H 'X-Debug: 1' http://127.0.0.1:8080/
//	curl -s http://127.0.0.1:9090/metrics
//
// The flag -help lists the flags. Several instances on one Redis need the same -seal-key, so that
// they share sessions.
//
// # Redis
//
// The fragment of -redis is a prefix of all keys but hchecker_ping: redis://127.0.0.1:6379#staging-
// reads staging-frontend:<host>.
//
//   - frontend:<host> is a list: an identifier, and the URLs of backends, of which 1000 are read.
//     <host> is a host in lower case without a port, a wildcard such as *.example.com, or "*". The
//     first one that exists counts: the host itself, then wildcards from the longest to the
//     shortest, then "*". A wildcard has at most six labels, counting the star.
//   - dead:<host> is a set of indexes of backends, from 0, that get no requests. It always has a
//     TTL. Of several instances, each marks what it finds dead, and reads what others have marked.
//     Each mark is published on the channel dead as "<host>;<URL>;<index>;<number of backends>".
//   - hchecker_ping is the Unix time, in seconds, at which an active checker last ran. For 30 s
//     after that, dead backends are published but not marked.
//   - certificate:<host> is a string of PEM blocks: a certificate chain, leaf first, and its
//     private key. Names are looked up like those of frontends. "*" also serves clients without
//     SNI. Whoever can read Redis can read the keys.
//
// This command stores a certificate in Redis:
//
//	cat chain.pem key.pem | redis-cli -x set certificate:www.example.com
//
// A change takes effect within about -interval. Keyspace events are not needed. While Redis does
// not answer, virtual hosts in use are served as they were, without waiting, and hosts that were
// not requested before get 503. Marks that were read before end after -dead-ttl.
//
// # Differences from hipache
//
//	                    hipache                        this program
//	session             none: a random backend         a cookie per virtual host; least connections
//	order of the list   an index is a backend          a URL is; sessions and load stay with it
//	a URL listed twice  two backends                   one of weight 2
//	removed backend     no new requests                sessions move after -grace; WebSockets end
//	dead backend        one failure or 5xx             one refused connection; 5xx or timeouts of
//	                                                   two clients, so that none takes it away
//	status 503          dead without Retry-After       never dead
//	mark of a wildcard  dead:<host of the request>     dead:<wildcard>, for all its hosts
//	stale index         marks another backend          checked in Redis against the URL
//	https://, path      port 80 without TLS; ignored   TLS, port 443; a prefix of the path
//	case, port, IPv6    as sent unless there is a port lower case, no port, no dot at the end, [::1]
//	no vhost            400                            400
//	no live backend     502                            502
//	X-Forwarded-For     believed if sent               of the client itself
//	x-debug             always                         with -debug
//	a Redis away        no answer                      what is known is served
//
// # Security
//
// A host without a virtual host costs one lookup in Redis per -interval, however many requests name
// it, and it has no pool. At most 64 lookups run at a time. At most 50,000 such hosts are
// remembered, separately from hosts that exist. A client that invents hosts can make the first
// request to another host wait or get 503, but not requests to hosts in use. A wildcard is one
// virtual host for all its hosts. If more than 50,000 of them are requested, invented ones
// included, some are looked up again. At most -max virtual hosts are in use. One that had no
// request for -idle is removed. If there are too many, the one that has been idle for the longest
// time is removed earlier.
//
// SNI chooses the certificate only. The Host of each request chooses the virtual host, whatever the
// connection's certificate is.
//
// Two clients that know a page with the status 501, 502 or 504 can have backends marked dead. An
// instance never ejects its last backend, but the marks of several instances may cover all.
//
// The program trusts Redis: whoever can write there decides where requests go.
package main
