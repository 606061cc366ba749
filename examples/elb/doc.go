// Command elb is a Classic Load Balancer on this machine. The AWS CLI, boto3 and the AWS SDK for Go
// configure it by the calls of the service, and its traffic obeys. A team can test its scripts and
// its applications against it. Besides what the service does, it passes WebSockets through
// listeners that terminate TLS, keep sessions and tell instances the client's address.
//
// It shows that everything may change while the packages of this module serve. A call replaces one
// document by another (package classic). The program prepares all that can fail, writes the
// document to -state, and then makes the listeners obey it, before it answers. No connection,
// request or WebSocket is cut by a change of policies.
//
// # A walk
//
//	go run .
//
// starts the API on 127.0.0.1:8000 and three embedded instances, i-11111111 and i-22222222 in the
// zone us-east-1a and i-33333333 in us-east-1b. A client needs credentials, but any will do:
//
//	export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any AWS_DEFAULT_REGION=us-east-1
//	alias elb='aws --endpoint-url http://127.0.0.1:8000 elb'
//	elb create-load-balancer --load-balancer-name my-loadbalancer --availability-zones us-east-1a us-east-1b \
//		--listeners Protocol=HTTP,LoadBalancerPort=80,InstanceProtocol=HTTP,InstancePort=80
//	elb register-instances-with-load-balancer --load-balancer-name my-loadbalancer \
//		--instances i-11111111 i-22222222 i-33333333
//	elb describe-instance-health --load-balancer-name my-loadbalancer
//	curl http://my-loadbalancer.elb.localhost:8080/
//
// LoadBalancerPort 80 is port 8080 here: -port-offset is 8000. All load balancers share the ports
// of the machine.
//
// Duration-based stickiness: create a policy, enable it for the listener, look at the result. Then
// curl keeps one instance for a minute:
//
//	elb create-lb-cookie-stickiness-policy --load-balancer-name my-loadbalancer \
//		--policy-name my-duration-cookie-policy --cookie-expiration-period 60
//	elb set-load-balancer-policies-of-listener --load-balancer-name my-loadbalancer \
//		--load-balancer-port 80 --policy-names my-duration-cookie-policy
//	elb describe-load-balancers --load-balancer-name my-loadbalancer
//	curl -b jar -c jar http://my-loadbalancer.elb.localhost:8080/
//
// Application-controlled stickiness, in the same steps. It begins when the application sets its
// cookie, as the embedded instances do at /login:
//
//	elb create-app-cookie-stickiness-policy --load-balancer-name my-loadbalancer \
//		--policy-name my-app-cookie-policy --cookie-name my-app-cookie
//	elb set-load-balancer-policies-of-listener --load-balancer-name my-loadbalancer \
//		--load-balancer-port 80 --policy-names my-app-cookie-policy
//	elb describe-load-balancers --load-balancer-name my-loadbalancer
//	curl -b jar2 -c jar2 'http://my-loadbalancer.elb.localhost:8080/login?cookie=my-app-cookie'
//	curl -b jar2 -c jar2 http://my-loadbalancer.elb.localhost:8080/
//
// And off again:
//
//	elb set-load-balancer-policies-of-listener --load-balancer-name my-loadbalancer \
//		--load-balancer-port 80 --policy-names '[]'
//
// The page at http://127.0.0.1:8000/ does the same by hand: a load balancer, Manage listeners,
// Edit, and Save changes twice. It also shows the traffic of each instance.
//
// # Your own instances
//
//	go run . -state elb.json -instance i-0a1b2c3d=10.0.0.1 -instance i-0a1b2c3e=10.0.0.2@us-east-1b \
//		-instance i-0a1b2c3f=127.0.0.1:3000
//
// An instance listens on the InstancePort of each listener, or always on the port that it is given
// with. The flag -help lists all flags. With -other, calls of other versions go to another
// emulator, for example one that answers version 2 of the service. The exit code is 2 if the
// command line is wrong, and 1 if the program cannot start or fails later.
//
// # As in the service
//
// All 29 actions of version 2012-06-01, with their defaults, limits, errors and pages. Calls that
// may be repeated succeed again. HTTP chooses the instance with the fewest outstanding requests,
// TCP takes turns. A listener's answer is 503 without an instance in service, and 504 when an
// instance does not answer within the idle timeout. An instance is out of service until its first
// health check. Health checks send no PROXY header. Sessions move at once from an instance that is
// deregistered, and with connection draining it finishes its requests. Without cross-zone load
// balancing, each zone that has an instance gets the same share of new sessions.
//
// # Different from the service
//
//   - Subnets, security groups, the scheme, access logs, the desync mitigation mode and tags are
//     checked, kept and described, and have no other effect.
//   - X-Forwarded headers of clients are dropped, not extended: no client is trusted.
//     X-Forwarded-Port is the port on this machine.
//   - The first health check decides whether an instance that is new is in service. After that, the
//     thresholds hold.
//   - A WebSocket on an instance that is deregistered is asked to close by a close frame. Without
//     connection draining everything that is under way at the instance is cut, except for requests
//     without a body that it has not begun to answer: these end at the idle timeout.
//   - Clients' connections that wait for their next request keep the idle timeout that the listener
//     had when it was created.
//   - SSL negotiation policies can have only the versions and ciphers that Go has, and Go orders
//     the ciphers itself. Attributes of other ciphers are kept and described. Clients may use
//     HTTP/2.
//   - A negotiation policy that leaves no version or no cipher is refused.
//   - The certificate of an ARN is read when a listener begins to use it. A renewed one needs
//     another name, as there, or a new process.
//   - Clients get the error RequestExpired if they send a recorded call again.
//   - The errors DependencyThrottle and OperationNotPermitted cannot occur.
//
// # State
//
// With -state, the whole configuration is in one file. It is replaced by a rename before a call is
// answered, so after a crash it is that of the last call that was answered, or that of the one
// under way. A file that is damaged is an error, and is not overwritten. The file has the key of
// the sessions' cookies, so sessions survive a restart. Only one process may use it: a second one
// does not start, where the system can lock files. The lock is on a file beside it, whose name ends
// with ".lock".
//
// # Security
//
// Without -access-key everybody who reaches the API may change everything, so the API then listens
// on loopback addresses only. With it, calls need a signature (Signature Version 4, not older than
// 15 minutes), and the page asks for the key and its secret. They go over plain HTTP: put TLS in
// front if the network is not trusted. Pages of other sites cannot send calls, and the API answers
// only for loopback names, its own address and the names of -api-host. Listeners listen where
// -listen-host says. Instances' certificates are not verified unless a policy of the type
// BackendServerAuthenticationPolicyType names their keys.
package main
