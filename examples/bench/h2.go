package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Flow control of an [h2Client]. The windows are so large that no answer waits for an update, and
// that the proxies handle hardly any.
const (
	h2StreamWindow = 16 << 20
	h2ConnWindow   = 1 << 30
	h2FirstWindow  = 65_535 // RFC 9113, section 6.9.2
	h2FirstTable   = 4096   // size of the header compression's table, RFC 9113, section 6.5.2
)

// An h2Client is one HTTP/2 connection to a proxy, for one session, with up to a fixed number of
// requests at the same time. Like [client], it uses little CPU time and is for one goroutine: this
// goroutine writes a request for each answer that it has read.
type h2Client struct {
	conn    net.Conn
	r       *bufio.Reader
	w       *bufio.Writer
	forget  func() bool // stops closing the connection at the end of ctx
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder

	session  session
	limit    int // requests at the same time
	streams  map[uint32]*h2Answer
	next     uint32   // stream ID
	sockets  []uint32 // streams that are WebSockets
	received uint32   // octets of data since the last update of the connection's window
	settings bool     // the proxy's settings have come
	extended bool     // the proxy offers extended CONNECT
}

// An h2Answer is an answer as far as it has come.
type h2Answer struct {
	exchange exchange
	status   string
	session  session
	octets   int
	socket   bool   // the stream is a WebSocket
	data     []byte // of a WebSocket, not yet used
}

// dialHTTP2 connects to a proxy and agrees on HTTP/2. It returns when the proxy's settings have
// come. An error is returned if they do not allow that number of streams. The connection is closed
// as that of [dial].
func dialHTTP2(ctx context.Context, addr string, conf *tls.Config, streams int) (*h2Client, error) {
	conn, err := connect(ctx, addr, conf)
	if err != nil {
		return nil, err
	}
	c := &h2Client{conn: conn, limit: streams, r: bufio.NewReaderSize(conn, clientReads), w: bufio.NewWriterSize(conn, clientReads),
		streams: make(map[uint32]*h2Answer), next: 1}
	c.framer = http2.NewFramer(c.w, c.r)
	c.framer.SetReuseFrames()
	c.framer.ReadMetaHeaders = hpack.NewDecoder(h2FirstTable, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.forget = context.AfterFunc(ctx, func() { conn.Close() })
	c.extend(0)
	if err := c.greet(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// greet sends the client's settings and waits for those of the proxy.
func (c *h2Client) greet() error {
	_, err := io.WriteString(c.w, http2.ClientPreface)
	err = errors.Join(err,
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2StreamWindow}),
		c.framer.WriteWindowUpdate(0, h2ConnWindow-h2FirstWindow))
	for err == nil && !c.settings {
		_, err = c.step()
	}
	return err
}

// extend gives the next answers d more time than patience.
func (c *h2Client) extend(d time.Duration) { c.conn.SetDeadline(time.Now().Add(patience + d)) }

func (c *h2Client) close() {
	c.forget()
	c.conn.Close()
}

// begin starts a new session with a first request.
func (c *h2Client) begin() error { return c.start(small) }

// start starts a new session with this request. Then it checks that the proxy forwards as many
// requests at the same time as the client sends: the backend answers none of them before all have
// come.
func (c *h2Client) start(first exchange) error {
	c.session = session{}
	if err := c.send(first); err != nil {
		return err
	}
	if err := c.finish(); err != nil || c.limit == 1 {
		return err
	}
	e := exchange{method: small.method, path: fmt.Sprintf("%s%x/%d", pathMeeting, mathrand.Uint64(), c.limit), want: small.want}
	for range c.limit {
		if err := c.send(e); err != nil {
			return err
		}
	}
	return c.finish()
}

// do sends requests until the limit is reached, and waits until one of them is answered. It checks
// the answer as [client.do] does.
func (c *h2Client) do(e exchange) error {
	for len(c.streams) < c.limit {
		if err := c.send(e); err != nil {
			return err
		}
	}
	return c.await()
}

// finish waits until all requests are answered.
func (c *h2Client) finish() error {
	for len(c.streams) > 0 {
		if err := c.await(); err != nil {
			return err
		}
	}
	return nil
}

// send writes a request without a body, which step sends later.
func (c *h2Client) send(e exchange) error {
	return c.open(&h2Answer{exchange: e}, hpack.HeaderField{Name: ":method", Value: e.method})
}

// open writes the header of a request, with these fields besides.
func (c *h2Client) open(a *h2Answer, fields ...hpack.HeaderField) error {
	c.block.Reset()
	fields = append(fields, hpack.HeaderField{Name: ":scheme", Value: "https"}, hpack.HeaderField{Name: ":authority", Value: "localhost"},
		hpack.HeaderField{Name: ":path", Value: a.exchange.path})
	if a.socket {
		fields = append(fields, hpack.HeaderField{Name: "sec-websocket-version", Value: "13"})
	}
	if c.session.cookies != "" {
		fields = append(fields, hpack.HeaderField{Name: "cookie", Value: c.session.cookies})
	}
	for _, f := range fields {
		if err := c.encoder.WriteField(f); err != nil {
			return err
		}
	}
	c.streams[c.next] = a
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: !a.socket})
	c.next += 2
	return err
}

// upgrade opens a WebSocket of the session on a stream of its own, with an extended CONNECT (RFC
// 8441).
func (c *h2Client) upgrade() error {
	if !c.extended {
		return absent("its HTTP/2 does not offer extended CONNECT (RFC 8441)")
	}
	a, id := &h2Answer{exchange: exchange{path: pathSocket}, socket: true}, c.next
	err := c.open(a, hpack.HeaderField{Name: ":method", Value: "CONNECT"}, hpack.HeaderField{Name: ":protocol", Value: "websocket"})
	for err == nil && a.status == "" {
		_, err = c.step()
	}
	if err != nil {
		return err
	}
	if a.status != "200" {
		return fmt.Errorf("an extended CONNECT: answered %q", a.status)
	}
	c.sockets = append(c.sockets, id)
	if c.session.backend == "" {
		c.session = a.session
	}
	return c.session.check(a.session.backend)
}

// echo sends a short message on each WebSocket in turn and waits until it is back.
func (c *h2Client) echo(payload []byte) error {
	want := append(frame{opcode: opBinary, length: len(payload)}.append(nil), payload...)
	for _, id := range c.sockets {
		a := c.streams[id]
		err := c.framer.WriteData(id, false, appendMessage(nil, opBinary, payload))
		for err == nil && len(a.data) < len(want) {
			_, err = c.step()
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(a.data, want) {
			return fmt.Errorf("a message came back as %x, want %x", a.data, want)
		}
		a.data = a.data[:0]
	}
	return nil
}

// await handles frames until one of the requests is answered.
func (c *h2Client) await() error {
	for {
		if done, err := c.step(); done || err != nil {
			return err
		}
	}
}

// step handles one frame. It reports whether the frame completes an answer. It sends what has been
// written if it would otherwise wait for the proxy.
func (c *h2Client) step() (done bool, err error) {
	if !c.holdsFrame() {
		if err := c.w.Flush(); err != nil {
			return false, err
		}
	}
	f, err := c.framer.ReadFrame()
	if err != nil {
		return false, unexpected(err)
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return false, c.learn(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			err = c.framer.WritePing(true, f.Data)
		}
		return false, err
	case *http2.GoAwayFrame:
		return false, fmt.Errorf("the proxy ends the connection: GOAWAY, %v", f.ErrCode)
	case *http2.RSTStreamFrame:
		return false, fmt.Errorf("the proxy resets a stream: %v", f.ErrCode)
	case *http2.MetaHeadersFrame:
		return c.takeHeader(f)
	case *http2.DataFrame:
		return c.takeData(f)
	}
	return false, nil
}

// holdsFrame reports whether a whole frame has been read into the buffer.
func (c *h2Client) holdsFrame() bool {
	const head = 9 // RFC 9113, section 4.1
	n := c.r.Buffered()
	if n < head {
		return false
	}
	b, _ := c.r.Peek(head) // cannot fail
	return n >= head+(int(b[0])<<16|int(b[1])<<8|int(b[2]))
}

// learn applies the proxy's settings.
func (c *h2Client) learn(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if size, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.encoder.SetMaxDynamicTableSizeLimit(size)
	}
	if most, ok := f.Value(http2.SettingMaxConcurrentStreams); ok && most < uint32(c.limit) {
		return fmt.Errorf("the proxy allows %d streams, want %d", most, c.limit)
	}
	extended, _ := f.Value(http2.SettingEnableConnectProtocol)
	c.extended = c.extended || extended == 1
	c.settings = true
	return c.framer.WriteSettingsAck()
}

// takeHeader handles the header of an answer, or its trailer.
func (c *h2Client) takeHeader(f *http2.MetaHeadersFrame) (done bool, err error) {
	a := c.streams[f.StreamID]
	if a == nil {
		return false, fmt.Errorf("a header on stream %d, which is not open", f.StreamID)
	}
	for _, field := range f.Fields {
		switch field.Name {
		case ":status":
			a.status = field.Value
		case "x-backend":
			a.session.backend = field.Value
		case "set-cookie":
			a.session.addCookie(field.Value)
		}
	}
	return c.finished(f.StreamID, a, f.StreamEnded())
}

// takeData handles data of an answer.
func (c *h2Client) takeData(f *http2.DataFrame) (done bool, err error) {
	a := c.streams[f.StreamID]
	if a == nil {
		return false, fmt.Errorf("data on stream %d, which is not open", f.StreamID)
	}
	if a.socket {
		a.data = append(a.data, f.Data()...)
	} else if want := a.exchange.want; !bytes.HasPrefix(want[min(a.octets, len(want)):], f.Data()) {
		return false, fmt.Errorf("%s %s: the octets are not those of the backend", a.exchange.method, a.exchange.path)
	}
	a.octets += len(f.Data())
	if c.received += f.Length; c.received >= h2ConnWindow/2 {
		if err := c.framer.WriteWindowUpdate(0, c.received); err != nil {
			return false, err
		}
		c.received = 0
	}
	return c.finished(f.StreamID, a, f.StreamEnded())
}

// finished checks an answer whose stream has ended.
func (c *h2Client) finished(id uint32, a *h2Answer, ended bool) (bool, error) {
	if !ended {
		return false, nil
	}
	if a.socket && a.status == "200" {
		return false, errors.New("a WebSocket's stream has ended")
	}
	delete(c.streams, id)
	if a.status != "200" {
		return false, fmt.Errorf("%s %s: answered %q", a.exchange.method, a.exchange.path, a.status)
	}
	if a.octets != len(a.exchange.want) {
		return false, fmt.Errorf("%s %s: %d octets, want %d", a.exchange.method, a.exchange.path, a.octets, len(a.exchange.want))
	}
	if c.session.backend == "" {
		c.session = a.session
	}
	return true, c.session.check(a.session.backend)
}
