package main

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/health/wskey"
)

// Paths of the backend.
const (
	pathHealth   = "/healthz"
	pathSmall    = "/small"    // an answer of smallSize
	pathLarge    = "/large"    // an answer of largeSize
	pathUpload   = "/upload"   // answers with the number of octets in the request's body
	pathSocket   = "/ws"       // sends back every message
	pathFlapping = "/flapping" // a health check: every backend is down for a third of the time
	pathLogin    = "/login/"   // followed by the value of the cookie that the answer sets
	// Followed by a name and a number: an answer of smallSize, as soon as that number of requests
	// with this path are waiting for it.
	pathMeeting = "/meeting/"

	smallSize = 100
	largeSize = 100 << 10
)

// content is what the answers are made of.
var content = func() []byte {
	b := make([]byte, maxPayload)
	for i := range b {
		b[i] = 'a' + byte(i*i/7%26)
	}
	return b
}()

func uploadAnswer(n int) []byte { return []byte("received " + strconv.Itoa(n)) }

const (
	appCookie  = "APP"
	flapPeriod = time.Second // a backend is down for one, and then up for two
	flapPhases = 3
)

const bufferSize = 64 << 10

// buffers are for copying bodies and messages. They grow with the messages.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize+maxFrameHead); return &b }}

// A backend is one server behind the proxies. It has one listener, and its name is its address. It
// supports only what the proxies send, so that it uses little CPU time.
type backend struct {
	name         string
	small, large []byte // whole answers
	healthy      []byte
	meetings     meetings
}

// runBackends runs n backends on free ports of different loopback addresses, and prints the address
// of each.
func runBackends(n int, out io.Writer) error {
	var listeners []net.Listener
	for i := range n {
		l, err := net.Listen("tcp", loopback(i)+":0")
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	failed := make(chan error)
	for _, l := range listeners {
		b := newBackend(l.Addr().String())
		go func() { failed <- b.serve(l) }()
	}
	for _, l := range listeners {
		fmt.Fprintln(out, announced, l.Addr())
	}
	return <-failed
}

// loopback returns the IP address of backend i. One address has too few ports for thousands of
// backends and the connections to them.
func loopback(i int) string {
	const each = 100
	return fmt.Sprintf("127.0.%d.%d", i/each%each, 1+i%each)
}

func newBackend(name string) *backend {
	b := &backend{name: name}
	b.small = b.answer(content[:smallSize])
	b.large = b.answer(content[:largeSize])
	b.healthy = b.answer(nil)
	return b
}

// answer returns an answer. The fields are further lines of its header.
func (b *backend) answer(body []byte, fields ...string) []byte {
	h := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Backend: %s\r\n%sContent-Length: %d\r\n\r\n",
		b.name, strings.Join(fields, ""), len(body))
	return append([]byte(h), body...)
}

// down reports whether a backend that flaps is down at a time. The phases of the backends differ.
func (b *backend) down(at time.Time) bool {
	phase := crc32.ChecksumIEEE([]byte(b.name)) % flapPhases
	return (at.UnixNano()/int64(flapPeriod)+int64(phase))%flapPhases == 0
}

func (b *backend) serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go b.serveConn(conn)
	}
}

// serveConn answers the requests of a connection until it ends or a request is invalid.
func (b *backend) serveConn(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var h head
	for {
		if err := h.read(r); err != nil {
			return
		}
		if h.socket {
			b.serveSocket(conn, r, &h)
			return
		}
		if err := b.respond(conn, r, &h); err != nil || h.close {
			return
		}
	}
}

func (b *backend) respond(conn net.Conn, r *bufio.Reader, h *head) error {
	if err := discard(conn, r, h.length); err != nil {
		return err
	}
	answer := []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	switch path := h.word(1); {
	case bytes.Equal(path, []byte(pathSmall)):
		answer = b.small
	case bytes.Equal(path, []byte(pathLarge)):
		answer = b.large
	case bytes.Equal(path, []byte(pathUpload)):
		answer = b.answer(uploadAnswer(int(h.length)))
	case bytes.Equal(path, []byte(pathHealth)):
		answer = b.healthy
	case bytes.Equal(path, []byte(pathFlapping)):
		answer = b.healthy
		if b.down(time.Now()) {
			answer = []byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}
	case bytes.HasPrefix(path, []byte(pathLogin)):
		answer = b.answer(content[:smallSize], "Set-Cookie: "+appCookie+"="+string(path[len(pathLogin):])+"; Path=/\r\n")
	case bytes.HasPrefix(path, []byte(pathMeeting)) && b.meetings.attend(string(path)):
		answer = b.small
	}
	_, err := conn.Write(answer)
	return err
}

// Meetings are the paths that some requests wait for others on. The zero value is ready to use.
type meetings struct {
	mu      sync.Mutex
	waiting map[string][]chan struct{}
}

// attend waits until as many requests with this path have come as its last part says. It reports
// false if they do not come in time.
func (m *meetings) attend(path string) bool {
	want, err := strconv.Atoi(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		return false
	}
	mine := make(chan struct{})
	m.mu.Lock()
	if m.waiting == nil {
		m.waiting = make(map[string][]chan struct{})
	}
	all := append(m.waiting[path], mine)
	m.waiting[path] = all
	if len(all) >= want {
		delete(m.waiting, path)
		for _, one := range all {
			close(one)
		}
	}
	m.mu.Unlock()
	select {
	case <-mine:
		return true
	case <-time.After(patience / 2): // the client still waits
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.waiting, path)
		return false
	}
}

// discard reads n octets, with large reads.
func discard(conn net.Conn, r *bufio.Reader, n int64) error {
	early, err := r.Discard(int(min(n, int64(r.Buffered()))))
	if n -= int64(early); err != nil || n == 0 {
		return err
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	for n > 0 {
		got, err := conn.Read((*p)[:min(n, bufferSize)])
		if n -= int64(got); err != nil && n > 0 {
			return unexpected(err)
		}
	}
	return nil
}

// serveSocket accepts a WebSocket and sends back every message until the peer closes it.
func (b *backend) serveSocket(conn net.Conn, r *bufio.Reader, h *head) {
	_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\nX-Backend: %s\r\n\r\n", wskey.Accept(string(h.key)), b.name)
	for err == nil {
		err = echo(conn, r)
	}
}

// echo sends one message back. For a close it also returns [io.EOF].
func echo(conn net.Conn, r *bufio.Reader) error {
	f, err := readFrame(r)
	if err != nil {
		return err
	}
	if !f.masked {
		return fmt.Errorf("a client's frame of %d octets is not masked", f.length)
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	*p = slices.Grow((*p)[:0], maxFrameHead+f.length)
	answer := frame{opcode: f.opcode, length: f.length}.append(*p)
	answer = answer[:len(answer)+f.length]
	payload := answer[len(answer)-f.length:]
	if _, err := io.ReadFull(r, payload); err != nil {
		return unexpected(err)
	}
	mask(payload, f.key)
	if _, err := conn.Write(answer); err != nil {
		return err
	}
	if f.opcode == opClose {
		return io.EOF
	}
	return nil
}
