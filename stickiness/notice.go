package stickiness

// Notices tell the operator which settings or conditions cost sessions. A policy adds them to
// [Binding.Notices] for each response to which they apply. The Proxy of package wsproxy logs each
// of them once.
type Notices uint16

const (
	// TrailingSemicolon: a Set-Cookie line of the application was ignored because it ends in a
	// semicolon.
	TrailingSemicolon Notices = 1 << iota
	// NoValue: there is no cookie value for the target that answered. Its ID is too long, or the
	// codec's table does not have it.
	NoValue
	// ManyCookies: a response sets or deletes more cookies of the application than the balancer
	// follows, or cookies that are too long.
	ManyCookies
	// FutureValue: the value that bound the request is from the future.
	FutureValue
	// RandomKey: a client was bound under a random key, which is lost when the process ends.
	RandomKey
	// NotSecure: the balancer's cookie was sent over TLS without Secure.
	NotSecure

	allNotices = 1<<iota - 1
)

// Each calls f once for each notice in n.
func (n Notices) Each(f func(Notices)) {
	for one := Notices(1); one <= allNotices; one <<= 1 {
		if n&one != 0 {
			f(one)
		}
	}
}

// String returns the text of the first notice in n.
func (n Notices) String() string {
	switch n & -n {
	case TrailingSemicolon:
		return "stickiness ignores a Set-Cookie line of the application that ends in a semicolon: set AcceptTrailingSemicolon to follow it"
	case NoValue:
		return "clients are not bound to the target, because there is no cookie value for it: its ID is too long, or the codec's table lacks it"
	case ManyCookies:
		return "a response sets or deletes more cookies of the application than stickiness follows: it follows the last four, up to 8 KiB"
	case FutureValue:
		return "a sticky cookie is from the future: the clocks of the instances differ"
	case RandomKey:
		return "sessions end with this process, because there are no Keys"
	case NotSecure:
		return "the sticky cookie goes out over TLS without Secure: browsers send it over plain HTTP, too"
	default:
		return "no notice"
	}
}
