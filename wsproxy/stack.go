package wsproxy

// How much stack a request needs, in bytes, when no hook needs more. The runtime rounds it up to a
// stack of 8 or 16 KiB.
const (
	requestStack = 5 << 10 // a small request on a kept connection
	upgradeStack = 11 << 10
)

// growStack makes the goroutine's stack large enough for a small request, in one step. net/http's
// HTTP/2 server runs each request on a new goroutine, whose stack starts with 2 KiB. Without
// growStack the stack would grow twice, deep in the calls, and the runtime would copy and adjust
// all of their frames each time. On a stack that is large enough, growStack costs a comparison.
//
// The runtime makes room for the whole frame of a function when the function is called. use is
// always false, because the frame itself is not needed.
//
//go:noinline
func growStack(use bool) {
	if use {
		var frame [requestStack]byte
		touch(frame[:])
	}
}

// growStackForUpgrade is growStack for an upgrade, which is usually the first request of its
// connection.
//
//go:noinline
func growStackForUpgrade(use bool) {
	if use {
		var frame [upgradeStack]byte
		touch(frame[:])
	}
}

// touch keeps the compiler from removing its caller's frame.
//
//go:noinline
func touch(frame []byte) { clear(frame) }
