// Package kubernetes reports the pods of a Kubernetes Service as targets. It watches the Service's
// EndpointSlices. Each pod is a target of its own, so that a session stays with its pod.
//
//	config, err := rest.InClusterConfig() // or package clientcmd's, outside of a cluster
//	registry := &health.Registry{Pool: pool}
//	go registry.Run(ctx)
//	pods := &kubernetes.Service{Config: config, Namespace: "shop", Name: "web", Port: "http"}
//	pods.Report = func(targets []balancer.Target) error {
//		return registry.Replace(targets, health.Drain{Grace: -1, Limit: time.Minute})
//	}
//	go pods.Run(ctx)
//	err = pods.Ready(ctx) // the pool has the first pods
//
// A pod that has left the EndpointSlices has ended: it was draining before, while it terminated.
// This is why the example has no Grace: what is left of its sessions moves at once. [Service] keeps the
// contract of package discovery. It changes nothing in the cluster, and it does not read pods, nodes
// or the Service itself.
//
// # What a pod serves
//
//	serving and not terminating    new and bound sessions
//	serving and terminating        bound sessions (draining), and new ones if no other target can
//	                               take them: Target.Backup
//	not serving                    bound sessions only (reserved): a Target.Weight of -1
//
// Serving is the pod's readiness, also if the Service has publishNotReadyAddresses. A pod that
// appears and has never been ready is left out until it is, because nothing is bound to it and
// checks would find it unhealthy. A pod that was not ready when the first list came is reserved:
// another instance may have bound sessions to it.
//
// A pod's phase does not change what operators have set. A target that is drained or down by
// Registry.Drain of package health, the status page or [balancer.Member.SetAdmin] remains so. Health
// checks are independent too: with Registry.Interval below zero, only the readiness of the pods and
// live traffic decide.
//
// For a rollout without lost requests and early moves, give the pods a preStop delay of some seconds:
// a terminating pod serves its sessions until it closes its listener. Then the next request of a
// session is refused, and a wsproxy.Proxy sends it to another pod. Set its Retry.Idempotent, because
// a pod may accept a connection just before it closes. WebSockets last until the pod ends them.
//
// # IDs
//
// The ID of a target is what a session is bound to. It is the name of the pod and the first eight
// digits of its UID, "web-5d4f7c-x2x9p-1b4e28ba". It is the same in all instances and after a
// restart. It does not contain the address, which the cluster gives to another pod later: the new
// pod must not get the sessions of the old one.
//
// The pods of a StatefulSet come back under their names, with their volumes. With Service.ByName
// the ID is the name alone: the sessions of web-0 belong to the next web-0 as well. A session that
// sends a request while web-0 is away moves to another pod, as that of any target that is down.
//
// The ID of an endpoint that is no pod, in an EndpointSlice that something else than the controller
// of Services has made, is its address and port.
//
// # Addresses, ports and zones
//
// The slices are merged. If an address is in several, which is usual while pods move between slices,
// the best phase wins. If a pod has an IPv4 and an IPv6 address, the target has one of them and
// keeps it. Changes within 100 ms are one set. A pod that is in no slice any more without having
// terminated is draining for Service.Hold, because slices are not updated together.
//
// The port may differ from slice to slice, as named ports do. Target.Zone is the zone of the pod's
// node. Topology hints become Target.ForZones, which says where a pod counts as local for
// Config.OneZone; they are ignored unless all ready pods have some, as kube-proxy does, and hints for
// nodes are not used. Labels name the pod ("pod") and its node ("node"). Report may set more:
// limits, for example.
//
// # Failures
//
// While the API server cannot be reached, the targets stay as they are. Watches that end, expire
// (410 Gone) or break are resumed, or the slices are listed again. Failures are logged once for each
// kind, and [Service.Ready] returns the latest. If the API server forbids a request (403), the error
// says which rule the service account lacks. This is the Role; role.yaml beside the package has it
// with its RoleBinding:
//
//	rules:
//	  - apiGroups: ["discovery.k8s.io"]
//	    resources: ["endpointslices"]
//	    verbs: ["list", "watch"]
//
// # Security
//
// Whoever may write EndpointSlices in the namespace decides where requests go, with cookies and
// bodies. The API server keeps loopback and link-local addresses out of them. A slice of another
// Service or namespace is ignored. Errors do not contain credentials of the Config.
package kubernetes
