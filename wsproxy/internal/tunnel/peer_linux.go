package tunnel

import (
	"syscall"
	"unsafe"
)

// Events of poll(2).
const (
	pollErr   = 0x8
	pollHup   = 0x10
	pollRdHup = 0x2000
)

// pollPeer returns the state of a socket's peer. Unread bytes do not hide an end of stream.
func pollPeer(fd uintptr) peerState {
	entry := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: pollRdHup}
	var atOnce syscall.Timespec
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&entry)), 1,
		uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
	switch {
	case errno == syscall.EINTR || errno == 0 && n == 0:
		return peerOpen
	case errno != 0:
		return peerUnknown
	case entry.revents&pollErr != 0:
		return peerReset
	case entry.revents&(pollHup|pollRdHup) != 0:
		return peerEnded
	}
	return peerOpen
}

// peer returns the state of the peer, for peerOf.
func (s *socket) peer() peerState {
	if !s.acquire() {
		return peerUnknown
	}
	defer s.done()
	return pollPeer(uintptr(s.fd))
}
