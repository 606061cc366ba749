//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package tunnel

// pollPeer returns peerUnknown: this system cannot tell.
func pollPeer(uintptr) peerState { return peerUnknown }
