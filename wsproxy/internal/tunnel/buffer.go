package tunnel

import (
	"io"
	"sync"
)

const (
	bufferSize = 32 << 10 // of a read that has much to take
	smallSize  = 1 << 10  // of a read that waits and cannot wait without a buffer
)

var (
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	smalls  = sync.Pool{New: func() any { return new([smallSize]byte) }}
)

// A reader reads into pooled memory. Read's bytes are valid until release, which is called
// before the next Read.
type reader interface {
	read() (p []byte, err error)
	release()
}

// sizedReader reads from any connection. It waits with a small buffer, takes a large one when
// the small one was filled, and goes back when what came would have fitted the small one.
type sizedReader struct {
	r     io.Reader
	big   bool
	small *[smallSize]byte
	large *[bufferSize]byte
}

func (s *sizedReader) read() (p []byte, err error) {
	if s.big {
		s.large = buffers.Get().(*[bufferSize]byte)
		p = s.large[:]
	} else {
		s.small = smalls.Get().(*[smallSize]byte)
		p = s.small[:]
	}
	n, err := s.r.Read(p)
	s.big = n > smallSize || n == len(p)
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
