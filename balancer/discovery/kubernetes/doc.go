// Package kubernetes reports the pods of a Kubernetes Service as targets. It watches the Service's
// EndpointSlices. Each pod is a target of its own, so that a session stays with its pod.
//
//	config, err := rest.InClusterConfig() // outside of a cluster, use package clientcmd
//	registry := &health.Registry{Pool: pool}
//	go registry.Run(ctx)
//	pods := &kubernetes.Service{Config: config, Namespace: "shop", Name: "web", Port: "http"}
//	pods.Report = func(targets []balancer.Target) error {
//		return registry.Replace(targets, health.Drain{Grace: -1, Limit: time.Minute})
//	}
//	go pods.Run(ctx)
//	err = pods.Ready(ctx) // the pool has the first pods
//
// A pod that has left the EndpointSlices has ended. It was draining before that, while it
// terminated. So the example sets no Grace (-1), and the remaining sessions move at once. [Service]
// follows the contract of package discovery. It changes nothing in the cluster, and does not read
// pods, nodes or the Service itself.
//
// # What a pod serves
//
//	serving and not terminating    new and bound sessions
//	serving and terminating        bound sessions (draining), and new ones if no other target can
//	                               take them: Target.Backup
//	not serving                    bound sessions only (reserved): a Target.Weight of -1
//
// "Serving" is the pod's readiness, also if the Service sets publishNotReadyAddresses. A new pod is
// no target until it has been ready once, because no session is bound to it and checks would find
// it unhealthy. A pod that is not ready in the first list is reserved, because another instance may
// have bound sessions to it.
//
// The phase of a pod does not change what operators have set. A target that Registry.Drain of
// package health, the status page or [balancer.Member.SetAdmin] has set to draining or down stays
// so. Health checks are independent as well. With a negative Registry.Interval there are none, and
// only the readiness of the pods and live traffic decide.
//
// For a rollout that loses no request and moves sessions late, give the pods a preStop delay of
// some seconds. A terminating pod then serves its sessions until it closes its listener. After that
// the next request of a session is refused, and a wsproxy.Proxy sends it to another pod. Set the
// Proxy's Retry.Idempotent, because a pod may accept a connection just before it closes. WebSockets
// stay until the pod ends them.
//
// # IDs
//
// The ID of a target is what a session is bound to. It is the name of the pod and the first eight
// digits of its UID, such as "web-5d4f7c-x2x9p-1b4e28ba". It is the same in all instances and after
// a restart. It does not contain the address, because the cluster may give the address to a new pod
// later, which must not get the sessions of the old one.
//
// The pods of a StatefulSet come back with the same names and volumes. With Service.ByName the ID
// is only the name, so a new web-0 gets the sessions of the previous web-0. A session that sends a
// request while web-0 is away moves to another pod, as with any target that is down.
//
// An endpoint that is not a pod has its address and port as its ID. Such endpoints are in
// EndpointSlices that users or other controllers have made.
//
// # Addresses, ports and zones
//
// The slices are merged. While pods move between slices, an address and port may be in several of
// them, and then the best phase counts. If a pod has an IPv4 and an IPv6 address, its target uses
// one of them and keeps it. Changes within 100 ms make one set. A pod that disappears from all
// slices without having terminated is draining for Service.Hold, because slices are not updated
// together.
//
// Slices may have different port numbers, as with named ports. Target.Zone is the zone of the pod's
// node. Topology hints become Target.ForZones, which says where a pod counts as local for
// Config.OneZone. As in kube-proxy, they are ignored unless all ready pods have some. Hints for
// nodes are not used. The labels "pod" and "node" name the pod and its node. Report may set other
// fields, such as limits.
//
// # Failures
//
// While the API server cannot be reached, the targets stay as they are. A watch that ends, expires
// (410 Gone) or breaks is resumed, or the slices are listed again. Each kind of failure is logged
// once. If ctx ends first, the error of [Service.Ready] names the latest. If the API server forbids
// a request (403), the error says which rule the service account lacks. The file role.yaml of this
// package has a Role with this rule, and its RoleBinding:
//
//	rules:
//	  - apiGroups: ["discovery.k8s.io"]
//	    resources: ["endpointslices"]
//	    verbs: ["list", "watch"]
//
// # Security
//
// Whoever may write EndpointSlices in the namespace decides where requests go, with their cookies
// and bodies. The API server refuses loopback and link-local addresses in them. A slice of another
// Service or namespace is ignored. Errors do not contain credentials of the Config.
package kubernetes
