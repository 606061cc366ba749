package tunnel

import (
	"errors"
	"io"
	"sync"
)

const (
	bufferSize = 32 << 10 // of a read that has much to take
	smallSize  = 2 << 10  // of a read that cannot wait without one
)

var (
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	smalls  = sync.Pool{New: func() any { return new([smallSize]byte) }}
)

// errParked is what read returns when there is nothing to read and no goroutine needs to wait:
// the reader's direction is run again when there is.
var errParked = errors.New("tunnel: parked")

// A reader reads into pooled memory. What read returns is valid until release, which comes
// before the next read. Nothing is to be released after errParked.
type reader interface {
	read() (p []byte, err error)
	release()
}

// A parker is a connection that may be left alone while there is nothing to read. Park does that;
// it reports false if something may have come, and then read is to be called. Read parks by itself.
type parker interface {
	reader
	io.WriteCloser
	park() bool
}

// A splicer is a reader that can pass on much at a time without reading it. Splice does that for
// d, which it reads for, while much is at hand, and notes it there. Then read is to be called,
// unless there was an error; errors of d's other side are noted and are none.
type splicer interface {
	reader
	splice(d *direction) error
}

// sizedReader reads from any connection. It waits with a small buffer; when that was filled
// there is probably more at hand and it takes a large one, until a read fills little of it.
type sizedReader struct {
	r     io.Reader
	big   bool
	small *[smallSize]byte
	large *[bufferSize]byte
}

func (s *sizedReader) read() (p []byte, err error) {
	enough := smallSize // to take a large one next
	if s.big {
		s.large = buffers.Get().(*[bufferSize]byte)
		p = s.large[:]
		enough = bufferSize / 4
	} else {
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
