package tunnel

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// batchSize is how many events the poller takes at once.
const batchSize = 64

// parking is an engine's poller, which is there while one of the engine's tunnels has a socket.
type parking struct {
	mu      sync.Mutex
	poller  *poller        // nil while there are no sockets
	pollers sync.WaitGroup // their goroutines
}

// A poller waits for many sockets with one goroutine. It has an epoll instance of its own, which
// the runtime's poller waits for, so that no thread is blocked in a system call.
//
// Its goroutine does nothing that can wait: it reads once into a buffer that many sockets share
// and writes once. Whatever is more than that (a peer that does not read, much to read, the end of
// a stream, a farewell, a side that is no socket) is done by a goroutine of the tunnel's, until
// there is nothing to read again.
//
// All events are hints: one that was meant for a descriptor's former socket costs its successor
// a read that finds nothing.
type poller struct {
	parking *parking
	file    *os.File // of the epoll instance
	fd      int      // its descriptor, valid while there are sockets
	pipes   pipes

	// Guarded by parking.mu.
	sockets []*socket // by descriptor
	count   int

	// The goroutine's own.
	events [batchSize]syscall.EpollEvent
	batch  *batch
}

// adopt takes the socket of conn, which d reads, out of the runtime's poller and closes conn. It
// returns nil and leaves conn as it is if that is no TCP connection or the system does not let it.
func (k *parking) adopt(conn io.ReadWriteCloser, d *direction) parker {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	fd, err := duplicate(tcp)
	if err != nil {
		return nil
	}
	s := &socket{fd: int32(fd), to: d}
	if err := k.add(s); err != nil {
		syscall.Close(fd)
		return nil
	}
	tcp.Close()
	return s
}

// wait returns when no poller runs any more.
func (k *parking) wait() { k.pollers.Wait() }

// duplicate returns another descriptor for tcp's socket: non-blocking, since that belongs to the
// socket, and not passed on to other programs.
func duplicate(tcp *net.TCPConn) (fd int, err error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return -1, err
	}
	var errno syscall.Errno
	err = raw.Control(func(old uintptr) {
		var r uintptr
		r, _, errno = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		fd = int(r)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return fd, err
}

// add makes the poller wait for s, and starts the poller with its first socket.
func (k *parking) add(s *socket) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.poller != nil {
		return k.poller.add(s)
	}
	p, err := newPoller(k)
	if err != nil {
		return err
	}
	if err := p.add(s); err != nil {
		p.file.Close()
		return err
	}
	k.poller = p
	k.pollers.Go(p.run)
	return nil
}

// add makes p wait for s: edge-triggered, so that a socket that a goroutine is at work on costs
// no events. parking.mu is held.
func (p *poller) add(s *socket) error {
	fd := int(s.fd)
	event := syscall.EpollEvent{Events: watched, Fd: s.fd}
	if err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	if short := fd + 1 - len(p.sockets); short > 0 {
		p.sockets = append(p.sockets, make([]*socket, short)...)
	}
	p.sockets[fd] = s
	p.count++
	s.poller = p
	return nil
}

func newPoller(k *parking) (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // for NewFile, which polls only such ones
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{parking: k, file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if err := p.file.SetReadDeadline(time.Time{}); err != nil { // the runtime does not poll it
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// remove forgets s, which nobody uses any more, and closes its descriptor. The poller stops with
// its last socket.
func (p *poller) remove(s *socket) {
	k := p.parking
	syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_DEL, int(s.fd), nil)
	k.mu.Lock()
	p.sockets[s.fd] = nil // before another socket can get the number
	p.count--
	last := p.count == 0
	if last {
		k.poller = nil
	}
	k.mu.Unlock()
	syscall.Close(int(s.fd))
	if last {
		p.pipes.close()
		p.file.Close() // waits for run to see it
	}
}

const (
	edgeTriggered = 1 << 31 // syscall.EPOLLET is negative on some systems

	readEvents  = syscall.EPOLLIN | moreEvents
	moreEvents  = syscall.EPOLLRDHUP | syscall.EPOLLPRI | syscall.EPOLLHUP | syscall.EPOLLERR
	writeEvents = syscall.EPOLLOUT | syscall.EPOLLHUP | syscall.EPOLLERR
	watched     = readEvents | writeEvents | edgeTriggered
)

// run is the poller's goroutine.
func (p *poller) run() {
	p.batch = newBatch()
	if raw, err := p.file.SyscallConn(); err == nil {
		raw.Read(func(uintptr) bool { // until the file is closed
			for p.poll() {
			}
			return false
		})
	}
	buffers.Put(p.batch.buffer)
}

// poll serves what is ready. It reports whether there may be more: then others see to what there
// was, so that as many processors are at work as it takes.
func (p *poller) poll() bool {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.events[0])), batchSize, 0, 0, 0)
	if errno != 0 {
		return errno == syscall.EINTR
	}
	p.batch.fill(p, p.events[:n])
	if n < batchSize {
		p.batch.serve()
		return false
	}
	go p.batch.serveAlone()
	p.batch = newBatch()
	return true
}

// batch is what was ready at the same time, and a buffer for all of it.
type batch struct {
	ready  []ready // of parked sockets
	buffer *[bufferSize]byte
}

// ready is a socket whose direction is the holder's to run.
type ready struct {
	*socket
	more bool // what one read takes is not all
}

func newBatch() *batch { return &batch{buffer: buffers.Get().(*[bufferSize]byte)} }

// fill takes what the events say, and passes on to writers what is for them.
func (b *batch) fill(p *poller, events []syscall.EpollEvent) {
	b.ready = b.ready[:0]
	p.parking.mu.Lock()
	for _, event := range events {
		b.ready = append(b.ready, ready{p.sockets[event.Fd], event.Events&moreEvents != 0})
	}
	p.parking.mu.Unlock()
	for i, event := range events {
		s := b.ready[i].socket
		if s != nil && !s.ready(event.Events&readEvents != 0, event.Events&writeEvents != 0) {
			b.ready[i].socket = nil
		}
	}
}

func (b *batch) serve() {
	for _, r := range b.ready {
		if r.socket != nil {
			b.pass(r.socket, r.more)
		}
	}
	clear(b.ready)
}

func (b *batch) serveAlone() {
	b.serve()
	buffers.Put(b.buffer)
}

// pass passes on what s has at hand. More says that what one read takes is not all.
//
// A read that gets less than it has room for has emptied the socket, so that another event comes
// with the next octet (epoll(7)). It has not if an end of stream, an error or urgent data, where
// reads stop, comes next: those have events of their own, and were in this one if they came
// before the read.
func (b *batch) pass(s *socket, more bool) {
	d := s.to
	dst, ok := d.dst.conn.(*socket)
	if !ok || s.burst < 0 {
		go d.run()
		return
	}
	n, err := s.tryRead(b.buffer[:])
	switch {
	case err == errAgain:
	case err != nil:
		go d.end(err)
		return
	case !b.forward(d, dst, n):
		return
	}
	s.count(n)
	if n >= bulkSize || more || !s.park() {
		go d.run()
	}
}

// forward writes the first n octets of the buffer to dst. If that cannot be done at once it
// leaves the buffer and d to a goroutine and reports false.
func (b *batch) forward(d *direction, dst *socket, n int) bool {
	taken := d.take(b.buffer[:n])
	if taken == 0 {
		return true
	}
	written, err := dst.tryWrite(b.buffer[:taken])
	if written == n {
		d.wrote(n, nil)
		return true
	}
	r := &rest{d, b.buffer, n, taken, written, err}
	b.buffer = buffers.Get().(*[bufferSize]byte)
	go r.run()
	return false
}

// rest is what the poller leaves of one read: n octets were read, taken of them are to be written
// now, and written is how many of them were, before err.
type rest struct {
	*direction
	buffer            *[bufferSize]byte
	n, taken, written int
	err               error
}

// run finishes the write and goes on with the direction.
func (r *rest) run() {
	r.direction.written += int64(r.written)
	if r.err == nil || r.err == errAgain {
		r.write(r.buffer[r.written:r.taken])
	} else {
		r.wrote(0, r.err)
	}
	r.deliver(r.buffer[r.taken:r.n])
	buffers.Put(r.buffer)
	r.direction.run()
}
