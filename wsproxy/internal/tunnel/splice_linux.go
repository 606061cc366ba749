package tunnel

import (
	"errors"
	"math"
	"sync"
	"syscall"
	"time"
)

const (
	// spliceLeast is how much must be sure to come for splice(2) to cost less than copying.
	spliceLeast = 24 << 10

	// pipeSize is how much one step moves at most. It is room for 64 pieces, such as packets.
	pipeSize = 256 << 10

	// maxPipes is how many directions of an engine splice at the same time; the others copy. So
	// peers that read nothing cannot hold more descriptors, and it is a quarter of the pages that
	// Linux lets the pipes of an unprivileged user have (pipe(7), pipe-user-pages-soft).
	maxPipes = 64

	// maxSpare is how many unused pipes are kept for the next directions.
	maxSpare = 8

	// pipePause is how long nobody asks the system for a pipe after it had none.
	pipePause = 5 * time.Second

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

// refused reports whether err is the system's, which does not splice. No socket fails with these.
func refused(err error) bool {
	errno, _ := errors.AsType[syscall.Errno](err)
	return errno == syscall.EINVAL || errno == syscall.ENOSYS || errno == syscall.EPERM
}

// sure returns how many octets are sure to come next, unless src ends, that nobody has to look at:
// the rest of a payload, or any number if these are no frames. What is dropped is none of them.
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
	d.t.watch()
	_, err := dst.push(p.held, func(int) (int, error) {
		n, err := dst.trySplice("write", p.out, dst.fd, p.held)
		p.held -= n
		d.written += int64(n)
		if n > 0 {
			d.touch() // what is left may take a slow reader long
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

// pipes are a poller's pipes, and go with it.
type pipes struct {
	mu     sync.Mutex
	spare  []*pipe
	made   int       // spare, in use and in the making
	closed bool      // no more of them: the poller has ended, or the system does not splice
	pause  time.Time // no more of them until then
}

// get returns an empty pipe, nil if there is none to be had.
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

// reserve returns a spare pipe, or nil and whether one may be made, which is counted already.
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

// newPipe fails if the pipe would have less room than pipeSize: one for a few pages only costs
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

// put takes p back. What it still holds is dropped.
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
