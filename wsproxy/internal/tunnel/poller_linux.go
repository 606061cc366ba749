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

// batchSize is how many events one call to epoll_wait returns at most.
const batchSize = 64

// parking starts a poller with the first socket of an engine and stops it with the last.
type parking struct {
	mu      sync.Mutex
	poller  *poller        // nil while there are no sockets
	pollers sync.WaitGroup // their goroutines
}

// A poller waits for many sockets with one goroutine. It has its own epoll instance. The runtime's
// poller waits for that instance, so no thread blocks in a system call.
//
// The goroutine does nothing that can block: it reads once or twice, into a buffer that many
// sockets share, writes what it has read, and passes on the end of a stream. A goroutine of the
// tunnel does everything else until there is nothing to read again: a peer that does not read, much
// data, the end of the tunnel, a close frame, a side that is not a socket.
//
// Events are hints only. An event for a closed socket whose descriptor is in use again costs the
// new socket a read that finds nothing.
type poller struct {
	parking *parking
	file    *os.File // of the epoll instance
	fd      int      // its descriptor, valid while there are sockets
	pipes   pipes

	// Guarded by parking.mu.
	sockets []*socket // by descriptor
	count   int

	// Used by the goroutine only.
	events [batchSize]syscall.EpollEvent
	batch  *batch
}

// adopt takes over the socket of conn, which d reads, from the runtime's poller, and closes conn.
// If conn is not a TCP connection, or the system refuses, adopt returns nil and leaves conn as it
// is.
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

// wait waits until no poller runs.
func (k *parking) wait() { k.pollers.Wait() }

// duplicate returns another descriptor for tcp's socket. It is non-blocking, because that is a
// property of the socket, and other programs do not inherit it.
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

// add makes the poller wait for s. The first socket starts the poller.
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

// add makes p wait for s, edge-triggered: a socket that a goroutine is using then causes no events.
// It does not wait until s is writable, because nearly all sockets always are: see watchWrites.
// parking.mu is held.
func (p *poller) add(s *socket) error {
	fd := int(s.fd)
	event := syscall.EpollEvent{Events: readEvents | edgeTriggered, Fd: s.fd}
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

// watchWrites makes p also wait until s is writable, and causes an event if it is now. s must not
// be closed meanwhile.
func (p *poller) watchWrites(s *socket) error {
	event := syscall.EpollEvent{Events: readEvents | writeEvents | edgeTriggered, Fd: s.fd}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_MOD, int(s.fd), &event))
}

func newPoller(k *parking) (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // os.NewFile polls only non-blocking descriptors
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{parking: k, file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if err := p.file.SetReadDeadline(time.Time{}); err != nil { // fails if the runtime does not poll it
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// remove removes s, which nobody uses any more, and closes its descriptor. With the last descriptor
// of a socket, the system removes the socket from the epoll instance (epoll(7)). Removing the last
// socket stops the poller.
func (p *poller) remove(s *socket) {
	k := p.parking
	k.mu.Lock()
	p.sockets[s.fd] = nil // before another socket can get the same number
	p.count--
	last := p.count == 0
	if last {
		k.poller = nil
	}
	k.mu.Unlock()
	syscall.Close(int(s.fd))
	if last {
		p.pipes.close()
		p.file.Close() // run ends then
	}
}

const (
	edgeTriggered = 1 << 31 // syscall.EPOLLET is negative on some systems

	readEvents  = syscall.EPOLLIN | moreEvents
	moreEvents  = syscall.EPOLLRDHUP | syscall.EPOLLPRI | syscall.EPOLLHUP | syscall.EPOLLERR
	writeEvents = syscall.EPOLLOUT | syscall.EPOLLHUP | syscall.EPOLLERR
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

// poll handles the sockets that are ready. It reports whether there may be more. If so, other
// goroutines handle these sockets, so that as many processors work as are needed.
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

// batch has the sockets that became ready at the same time, and a buffer that they share.
type batch struct {
	ready  []ready // the parked sockets
	buffer *[bufferSize]byte
}

// ready is a socket whose direction the holder has to run.
type ready struct {
	*socket
	more bool // the socket has more bytes than one read returns
}

func newBatch() *batch { return &batch{buffer: buffers.Get().(*[bufferSize]byte)} }

// fill handles the events. It wakes writers and collects the parked sockets.
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

// pass passes on the data that s has. more reports whether s has more bytes than one read returns.
//
// A read that returns less than it has room for has emptied the socket, so the next octet causes
// another event (epoll(7)). The exception is a read that stops in front of an end of stream, an
// error or urgent data. These have events of their own, which were in this event if they came
// before the read.
//
// If there is more, it is usually the end of stream behind a last message. A second read gets it.
func (b *batch) pass(s *socket, more bool) {
	d := s.to
	dst, ok := d.dst.conn.(*socket)
	if !ok || s.burst < 0 {
		go d.run()
		return
	}
	for range 2 {
		n, err := s.tryRead(b.buffer[:])
		switch {
		case err == errAgain:
			more = false
		case err != nil:
			d.endAtOnce(err)
			return
		case !b.forward(d, dst, n):
			return
		}
		s.count(n)
		if n >= bulkSize {
			break
		}
		if !more && s.park() {
			return
		}
	}
	go d.run()
}

// forward writes the first n octets of the buffer to dst. If that would block, it leaves the buffer
// and d to a goroutine and reports false.
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

// rest is a read that a goroutine finishes: n octets were read, and taken of them are to be written
// now. written of these were written before err.
type rest struct {
	*direction
	buffer            *[bufferSize]byte
	n, taken, written int
	err               error
}

// run finishes the write and continues the direction.
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
