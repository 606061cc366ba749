//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"
)

// newReader returns the reader for conn.
func newReader(conn io.ReadWriteCloser) reader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return &sizedReader{r: conn}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return &sizedReader{r: conn} // its Read returns the error
	}
	r := &socketReader{conn: tcp, raw: raw}
	r.try = r.tryRead
	return r
}

// socketReader reads from a TCP socket and holds no buffer while it waits. It makes the same system
// calls as the Read of a *net.TCPConn.
type socketReader struct {
	conn   *net.TCPConn
	raw    syscall.RawConn
	try    func(fd uintptr) bool // the method value tryRead, which is made once
	buffer *[bufferSize]byte
	n      int
	err    error
}

func (r *socketReader) read() ([]byte, error) {
	if err := r.raw.Read(r.try); err != nil {
		return nil, err
	}
	switch {
	case r.err != nil:
		return nil, &net.OpError{
			Op: "read", Net: "tcp", Source: r.conn.LocalAddr(), Addr: r.conn.RemoteAddr(),
			Err: os.NewSyscallError("read", r.err),
		}
	case r.n == 0:
		return nil, io.EOF
	}
	return r.buffer[:r.n], nil
}

// tryRead reports false if there is nothing to read yet. The runtime's poller then calls it again
// as soon as there is.
func (r *socketReader) tryRead(fd uintptr) bool {
	r.buffer = buffers.Get().(*[bufferSize]byte)
	for {
		r.n, r.err = syscall.Read(int(fd), r.buffer[:])
		switch r.err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.release()
			return false
		}
		return true
	}
}

func (r *socketReader) release() {
	if r.buffer != nil {
		buffers.Put(r.buffer)
		r.buffer = nil
	}
}
