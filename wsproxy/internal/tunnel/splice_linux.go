package tunnel

import (
	"errors"
	"math"
	"sync"
	"syscall"
	"time"
)

const (
	// spliceLeast is how many octets must be certain to come for splice(2) to cost less than
	// copying.
	spliceLeast = 24 << 10

	// pipeSize is how many octets one step moves at most. A pipe of this size has room for 64
	// pieces, such as packets.
	pipeSize = 256 << 10

	// maxPipes is how many directions of an engine may splice at the same time. The others copy. So
	// peers that read nothing hold a bounded number of descriptors. It is a quarter of the pages
	// that Linux allows for the pipes of an unprivileged user (pipe(7), pipe-user-pages-soft).
	maxPipes = 64

	// maxSpare is how many unused pipes are kept for reuse.
	maxSpare = 8

	// pipePause is how long to wait after the system refused a pipe.
	pipePause = 5 * time.Second

	spliceFlags = 0x1 | 0x2 // SPLICE_F_MOVE and SPLICE_F_NONBLOCK of splice(2)
	setPipeSize = 1031      // F_SETPIPE_SZ of fcntl(2)
)

// splice implements splicer, for sockets on both sides.
//
// It leaves rare cases to read, which is called next: nothing to read, the end of the stream, and
// urgent data, which splice(2) cannot tell from the end.
func (s *socket) splice(d *direction) error {
	dst, ok := d.dst.conn.(*socket)
	sure := d.sure()
	if !ok || sure < spliceLeast || d.t.engine.copies {
		return nil
	}
	p := s.poller.pipes.get()
	if p == nil {
		return nil
	}
	defer s.poller.pipes.put(p)
	for {
		n, err := p.fill(s, min(sure, pipeSize))
		switch {
		case err == errAgain || err == nil && n == 0:
			return nil
		case refused(err):
			s.poller.pipes.close()
			return nil
		case err != nil:
			return err
		}
		s.count(n)
		if !d.takePayload(n) || !p.empty(dst, d) {
			return nil
		}
		if sure = d.sure(); sure == 0 || n < bulkSize {
			return nil
		}
	}
}

// refused reports whether err means that the system cannot splice. No socket fails with such an
// error.
func refused(err error) bool {
	errno, _ := errors.AsType[syscall.Errno](err)
	return errno == syscall.EINVAL || errno == syscall.ENOSYS || errno == syscall.EPERM
}

// sure returns how many of the next octets need not be looked at, and are certain to come unless
// src ends. These are the rest of a payload, or any number if the stream is not frames. The result
// is zero if they are to be dropped.
func (d *direction) sure() int {
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	switch {
	case d.mute:
		return 0
	case d.t.webSocket:
		return d.frames.payloadLeft()
	}
	return math.MaxInt
}

// pipe carries bytes from one socket to another. One goroutine uses it at a time.
type pipe struct {
	out, in int32 // descriptors: the end to read from and the end to write to
	held    int   // octets in it
}

// fill moves up to n octets from s into the pipe, which is empty.
func (p *pipe) fill(s *socket, n int) (int, error) {
	n, err := s.trySplice("read", s.fd, p.in, n)
	p.held = n
	return n, err
}

// empty writes the contents of the pipe to dst, as a write of d. It reports whether dst took them.
func (p *pipe) empty(dst *socket, d *direction) bool {
	d.t.watch()
	_, err := dst.push(p.held, func(int) (int, error) {
		n, err := dst.trySplice("write", p.out, dst.fd, p.held)
		p.held -= n
		d.written += int64(n)
		if n > 0 {
			d.touch() // a slow reader may need long for the rest
		}
		return n, err
	})
	d.wrote(0, err)
	return err == nil
}

func (p *pipe) close() {
	syscall.Close(int(p.in))
	syscall.Close(int(p.out))
}

// pipes are the pipes of a poller. They are closed with it.
type pipes struct {
	mu     sync.Mutex
	spare  []*pipe
	made   int       // pipes that are spare, in use or being made
	closed bool      // make no more pipes: the poller has ended, or the system cannot splice
	pause  time.Time // make no more pipes before this time
}

// get returns an empty pipe, or nil if there is none.
func (k *pipes) get() *pipe {
	p, ok := k.reserve()
	if p != nil || !ok {
		return p
	}
	p, err := newPipe()
	if err != nil {
		k.mu.Lock()
		k.made--
		k.pause = time.Now().Add(pipePause)
		k.mu.Unlock()
		return nil
	}
	return p
}

// reserve returns a spare pipe if there is one. Otherwise it reports whether a pipe may be made,
// and counts it.
func (k *pipes) reserve() (spare *pipe, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if last := len(k.spare) - 1; last >= 0 {
		spare = k.spare[last]
		k.spare = k.spare[:last]
		return spare, true
	}
	if k.closed || k.made == maxPipes || time.Now().Before(k.pause) {
		return nil, false
	}
	k.made++
	return nil, true
}

// newPipe makes a pipe of pipeSize. It fails if the system allows less: a pipe of a few pages costs
// more than copying.
func newPipe() (*pipe, error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, err
	}
	p := &pipe{out: int32(ends[0]), in: int32(ends[1])}
	_, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(p.in), setPipeSize, pipeSize)
	if errno != 0 {
		p.close()
		return nil, errno
	}
	return p, nil
}

// put takes p back. Bytes that are still in it are dropped.
func (k *pipes) put(p *pipe) {
	if !k.keep(p) {
		p.close()
	}
}

func (k *pipes) keep(p *pipe) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.held > 0 || k.closed || len(k.spare) == maxSpare {
		k.made--
		return false
	}
	k.spare = append(k.spare, p)
	return true
}

// close closes the spare pipes. The others are closed when they are put back.
func (k *pipes) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, p := range k.spare {
		p.close()
	}
	k.made -= len(k.spare)
	k.spare = nil
}
