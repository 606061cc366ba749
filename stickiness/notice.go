package stickiness

// Notices are what the operator should know of a policy's work: what costs sessions, and
// which setting is behind it. A policy puts them into [Binding.Notices] whenever they
// apply; a Proxy of package wsproxy logs each of them once.
type Notices uint16

const (
	// TrailingSemicolon: a Set-Cookie line of the application was ignored for the semicolon
	// at its end.
	TrailingSemicolon Notices = 1 << iota
	// NoValue: there is no cookie value for the target that answered. Its ID is too long, or
	// the codec's table does not have it.
	NoValue
	// ManyCookies: a response sets or deletes more cookies of the application than the
	// balancer follows, or longer ones.
	ManyCookies
	// FutureValue: a value is from the future, but within [Skew].
	FutureValue
	// RandomKey: a client was bound under a key that ends with the process.
	RandomKey
	// NotSecure: the balancer's cookie went out over TLS without Secure.
	NotSecure

	allNotices = 1<<iota - 1
)

// Each calls f for each notice in n by itself.
func (n Notices) Each(f func(Notices)) {
	for one := Notices(1); one <= allNotices; one <<= 1 {
		if n&one != 0 {
			f(one)
		}
	}
}

// String returns what a single notice says; for several, what the first one says.
func (n Notices) String() string {
	switch n & -n {
	case TrailingSemicolon:
		return "a Set-Cookie line of the application ends in a semicolon and is ignored for stickiness: set AcceptTrailingSemicolon to follow it"
	case NoValue:
		return "no cookie can hold a value for the target, so it binds nobody: its ID is too long, or the codec's table lacks it"
	case ManyCookies:
		return "a response sets or deletes more cookies of the application than stickiness follows: the last four, in 8 KiB"
	case FutureValue:
		return "a sticky cookie is from the future: the clocks of the instances differ"
	case RandomKey:
		return "sessions end with this process: no Keys"
	case NotSecure:
		return "the sticky cookie goes out over TLS without Secure: browsers send it over plain HTTP, too"
	default:
		return "no notice"
	}
}
