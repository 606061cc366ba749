package tunnel

import (
	"errors"
	"io"
	"sync"
)

const (
	bufferSize = 32 << 10 // for a read that expects much data
	smallSize  = 2 << 10  // for a read that has to wait with a buffer
)

var (
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	smalls  = sync.Pool{New: func() any { return new([smallSize]byte) }}
)

// errParked is what read returns when there is nothing to read and no goroutine has to wait. The
// direction runs again when something arrives.
var errParked = errors.New("tunnel: parked")

// A reader reads into pooled memory. The result of read is valid until release, which the caller
// calls before the next read. After errParked there is nothing to release.
type reader interface {
	read() (p []byte, err error)
	release()
}

// A parker is a reader whose connection needs no goroutine while there is nothing to read. Its park
// method parks the connection. It reports false if data may have arrived; the caller then calls
// read. Its read method parks by itself. Its CloseWrite method never blocks. Its Close method also
// sends the end of stream, unless there are unread bytes.
type parker interface {
	reader
	io.WriteCloser
	CloseWrite() error
	park() bool
}

// A splicer is a reader that can pass on large amounts of data without reading them. Its splice
// method does that for the direction d while much data is at hand, and updates d. Unless it returns
// an error, the caller then calls read. Errors of d's destination are noted in d and not returned.
type splicer interface {
	reader
	splice(d *direction) error
}

// An Awaiter is a connection that can wait without a buffer. AwaitRead returns when a Read would
// not have to wait. It may return earlier.
type Awaiter interface{ AwaitRead() }

// sizedReader reads from any connection. It waits with a small buffer, or with none if the
// connection is an Awaiter. When a read fills the small buffer, more bytes have probably arrived.
// It then uses a large buffer, until a read fills only a little of that.
type sizedReader struct {
	r     io.Reader
	big   bool
	small *[smallSize]byte
	large *[bufferSize]byte
}

func (s *sizedReader) read() (p []byte, err error) {
	enough := smallSize // a read of this many bytes makes the next one large
	if s.big {
		s.large = buffers.Get().(*[bufferSize]byte)
		p = s.large[:]
		enough = bufferSize / 4
	} else {
		if a, ok := s.r.(Awaiter); ok {
			a.AwaitRead()
		}
		s.small = smalls.Get().(*[smallSize]byte)
		p = s.small[:]
	}
	n, err := s.r.Read(p)
	s.big = n >= enough
	return p[:n], err
}

func (s *sizedReader) release() {
	if s.small != nil {
		smalls.Put(s.small)
	}
	if s.large != nil {
		buffers.Put(s.large)
	}
	s.small, s.large = nil, nil
}
