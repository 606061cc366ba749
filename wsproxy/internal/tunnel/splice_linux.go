package tunnel

import (
	"errors"
	"math"
	"sync"
	"syscall"
)

const (
	// spliceLeast is how much must be sure to come for splice(2) to cost less than copying.
	spliceLeast = 24 << 10

	// pipeSize is how much one step moves at most. It is room for 256 pieces, such as packets.
	pipeSize = 1 << 20

	// maxPipes is how many directions of an engine splice at the same time; the others copy. So
	// peers that read nothing cannot hold more, and with pipes of this size it is half of what
	// Linux lets a user have (pipe(7), pipe-user-pages-soft).
	maxPipes = 32

	// maxSpare is how many unused pipes are kept for the next directions.
	maxSpare = 8

	spliceFlags = 0x1 | 0x2 // SPLICE_F_MOVE and SPLICE_F_NONBLOCK of splice(2)
	setPipeSize = 1031      // F_SETPIPE_SZ of fcntl(2)
)

// splice implements splicer, for sockets on both sides.
//
// What is rare it leaves to read, which is called next: that nothing is there, the end of the
// stream, and urgent data, which splice(2) cannot tell from the end.
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

// refused reports whether err is the system's, which does not splice, and not the socket's.
func refused(err error) bool {
	for _, refusal := range []error{syscall.EINVAL, syscall.ENOSYS, syscall.EPERM, syscall.EOPNOTSUPP} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// sure returns how many octets that are no matter of the tunnel's are sure to come next, unless
// src ends: the rest of a payload, or any number if these are no frames.
func (d *direction) sure() int {
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	if !d.t.webSocket {
		return math.MaxInt
	}
	return d.frames.rest()
}

// pipe is what bytes go through from one socket to another. One goroutine has it.
type pipe struct {
	out, in int32 // descriptors, to read from and to write to
	held    int   // octets in it
}

// fill moves up to n octets of what s has at hand into the pipe, which is empty.
func (p *pipe) fill(s *socket, n int) (int, error) {
	n, err := s.trySplice("read", s.fd, p.in, n)
	p.held = n
	return n, err
}

// empty moves what the pipe holds to dst, as d's write, and reports whether dst took it.
func (p *pipe) empty(dst *socket, d *direction) bool {
	_, err := dst.push(p.held, func(int) (int, error) {
		n, err := dst.trySplice("write", p.out, dst.fd, p.held)
		p.held -= n
		d.written += int64(n)
		d.touch() // a reader that is slow is no idle one
		return n, err
	})
	d.wrote(0, err)
	return err == nil
}

func (p *pipe) close() {
	syscall.Close(int(p.in))
	syscall.Close(int(p.out))
}

// pipes are a poller's pipes, and go with it.
type pipes struct {
	mu     sync.Mutex
	spare  []*pipe
	made   int  // spare and in use
	closed bool // no more of them
}

// get returns an empty pipe, nil if there is none to be had.
func (k *pipes) get() *pipe {
	k.mu.Lock()
	defer k.mu.Unlock()
	if last := len(k.spare) - 1; last >= 0 {
		p := k.spare[last]
		k.spare = k.spare[:last]
		return p
	}
	if k.closed || k.made == maxPipes {
		return nil
	}
	p := newPipe()
	if p != nil {
		k.made++
	}
	return p
}

// newPipe returns nil if the system has none.
func newPipe() *pipe {
	var ends [2]int
	if syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK) != nil {
		return nil
	}
	syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(ends[1]), setPipeSize, pipeSize) // if refused, it has less room
	return &pipe{out: int32(ends[0]), in: int32(ends[1])}
}

// put takes p back. What it still holds is dropped.
func (k *pipes) put(p *pipe) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.held > 0 || k.closed || len(k.spare) == maxSpare {
		p.close()
		k.made--
		return
	}
	k.spare = append(k.spare, p)
}

// close closes the spare pipes, and the others when they are put back.
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
