package h2test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	streamWindow = 256 << 10 // how many unread bytes the server may send on a stream
	firstWindow  = 65_535    // RFC 9113 section 6.9.2
	firstFrame   = 16 << 10  // RFC 9113 section 6.5.2
	patience     = 30 * time.Second
)

// errNoRoom reports that a connection takes no more streams.
var errNoRoom = errors.New("h2test: no more streams on this connection")

// A conn is a connection and its streams. One goroutine reads it, and returns the connection's
// flow-control window at once. A stream's window is returned when the stream is read.
type conn struct {
	under net.Conn
	done  chan struct{} // closed when nobody reads any more

	writing sync.Mutex // locked before mu; guards the next fields
	framer  *http2.Framer
	buffer  *bufio.Writer
	block   bytes.Buffer
	encoder *hpack.Encoder

	mu       sync.Mutex
	changed  *sync.Cond // signals a change of the fields below, or of a stream
	streams  map[uint32]*Stream
	next     uint32
	window   int64 // bytes that may be sent on all streams together
	initial  int64 // bytes that may be sent on a new stream
	frame    int   // bytes that a frame may have
	most     int   // streams
	settings bool  // the server's settings have come
	extended bool  // the server offers extended CONNECT
	err      error // why no new stream can be opened; nil while one can
}

func newConn(under net.Conn) (*conn, error) {
	c := &conn{under: under, done: make(chan struct{}), buffer: bufio.NewWriter(under), streams: make(map[uint32]*Stream),
		next: 1, window: firstWindow, initial: firstWindow, frame: firstFrame, most: 1 << 30}
	c.changed = sync.NewCond(&c.mu)
	c.framer = http2.NewFramer(c.buffer, under)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	err := c.write(func() error {
		if _, err := io.WriteString(c.buffer, http2.ClientPreface); err != nil {
			return err
		}
		if err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
			http2.Setting{ID: http2.SettingEnablePush, Val: 0}); err != nil {
			return err
		}
		return c.framer.WriteWindowUpdate(0, 1<<30)
	})
	if err != nil {
		return nil, err
	}
	go c.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	late := time.AfterFunc(patience, func() { under.Close() })
	defer late.Stop()
	for !c.settings && c.err == nil {
		c.changed.Wait()
	}
	return c, c.err
}

// write calls f, which writes frames, and sends them.
func (c *conn) write(f func() error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := f(); err != nil {
		return err
	}
	return c.buffer.Flush()
}

// open sends the header of a request on a new stream.
func (c *conn) open(ctx context.Context, r Request) (*Stream, error) {
	s := &Stream{conn: c}
	err := c.write(func() error {
		c.mu.Lock()
		switch {
		case c.err != nil || len(c.streams) >= c.most:
			c.mu.Unlock()
			return errNoRoom
		case !c.extended:
			c.mu.Unlock()
			return ErrNotOffered
		}
		s.id, s.window = c.next, c.initial
		c.next += 2
		c.streams[s.id] = s
		c.mu.Unlock()
		c.block.Reset()
		for _, f := range r.fields() {
			if err := c.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				return err
			}
		}
		return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true})
	})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	c.mu.Lock()
	s.stop = stop
	c.mu.Unlock()
	return s, nil
}

// read handles frames until the connection ends, and then ends all streams with the same error.
func (c *conn) read() {
	defer close(c.done)
	var err error
	for err == nil {
		var f http2.Frame
		if f, err = c.framer.ReadFrame(); err == nil {
			err = c.handle(f)
		} else if stream, ok := errors.AsType[http2.StreamError](err); ok { // it ends only the stream
			c.reset(stream.StreamID, err)
			err = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for _, s := range c.streams {
		s.end(err, err)
	}
	c.changed.Broadcast()
}

// handle handles a frame. An error ends the connection.
func (c *conn) handle(f http2.Frame) error {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		c.learn(f)
		return c.write(c.framer.WriteSettingsAck)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return c.write(func() error { return c.framer.WritePing(true, f.Data) })
	case *http2.GoAwayFrame:
		c.leave(f)
	case *http2.WindowUpdateFrame:
		c.widen(id, int64(f.Increment))
	case *http2.RSTStreamFrame:
		c.reset(id, http2.StreamError{StreamID: id, Code: f.ErrCode})
	case *http2.MetaHeadersFrame:
		return c.begin(f)
	case *http2.DataFrame:
		return c.receive(f)
	}
	return nil
}

// learn applies the server's settings. A new initial window changes the windows of all streams (RFC
// 9113 section 6.9.2).
func (c *conn) learn(f *http2.SettingsFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.ForeachSetting(func(s http2.Setting) error {
		switch s.ID {
		case http2.SettingInitialWindowSize:
			for _, stream := range c.streams {
				stream.window += int64(s.Val) - c.initial
			}
			c.initial = int64(s.Val)
		case http2.SettingMaxFrameSize:
			c.frame = int(s.Val)
		case http2.SettingMaxConcurrentStreams:
			c.most = int(min(s.Val, 1<<30))
		case http2.SettingEnableConnectProtocol:
			c.extended = s.Val == 1
		}
		return nil
	})
	c.settings = true
	c.changed.Broadcast()
}

// leave handles a GOAWAY. It ends the streams that the server will not answer. No others are
// opened.
func (c *conn) leave(f *http2.GoAwayFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("the server sent GOAWAY (%v) after stream %d", f.ErrCode, f.LastStreamID)
	for id, s := range c.streams {
		if id > f.LastStreamID {
			s.end(c.err, c.err)
		}
	}
	c.changed.Broadcast()
}

// widen adds n to the window of a stream, or to the connection's window if id is 0.
func (c *conn) widen(id uint32, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		s.window += n
	} else if id == 0 {
		c.window += n
	}
	c.changed.Broadcast()
}

// reset ends a stream that the server resets. A server that has answered in full may reset the
// stream so that it does not get the rest of the request (RFC 9113 section 8.1).
func (c *conn) reset(id uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		s.end(err, err)
		s.forget()
	}
	c.changed.Broadcast()
}

// begin handles a header or a trailer section of a response.
func (c *conn) begin(f *http2.MetaHeadersFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.StreamID]
	if s == nil {
		return nil
	}
	if s.response == nil {
		var fields [][2]string
		for _, field := range f.Fields {
			fields = append(fields, [2]string{field.Name, field.Value})
		}
		res, err := response(fields, s)
		if err != nil {
			return err
		}
		s.response = res
	}
	if f.StreamEnded() {
		s.end(io.EOF, nil)
	}
	c.changed.Broadcast()
	return nil
}

// receive handles data, and returns the connection's window. It drops data for a stream that has
// been forgotten.
func (c *conn) receive(f *http2.DataFrame) error {
	c.mu.Lock()
	if s := c.streams[f.StreamID]; s != nil {
		s.received = append(s.received, f.Data()...)
		s.padding += int(f.Length) - len(f.Data())
		if f.StreamEnded() {
			s.end(io.EOF, nil)
		}
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	if f.Length == 0 {
		return nil
	}
	return c.write(func() error { return c.framer.WriteWindowUpdate(0, f.Length) })
}
