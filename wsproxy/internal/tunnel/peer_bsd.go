//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package tunnel

import "syscall"

// pollPeer returns the state of a socket's peer. Unread bytes do not hide an end of stream.
func pollPeer(fd uintptr) peerState {
	queue, err := syscall.Kqueue()
	if err != nil {
		return peerUnknown
	}
	defer syscall.Close(queue)
	var change, event [1]syscall.Kevent_t
	syscall.SetKevent(&change[0], int(fd), syscall.EVFILT_READ, syscall.EV_ADD|syscall.EV_ONESHOT)
	var atOnce syscall.Timespec
	n, err := syscall.Kevent(queue, change[:], event[:], &atOnce)
	switch {
	case err != nil:
		return peerUnknown
	case n == 0 || event[0].Flags&syscall.EV_EOF == 0:
		return peerOpen
	case event[0].Fflags != 0: // the socket's error
		return peerReset
	}
	return peerEnded
}
