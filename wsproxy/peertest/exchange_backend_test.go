package peertest_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// A scripted backend reads requests as [parseRequests] does, notes them, and answers as an exchange says.
type scripted struct {
	listener net.Listener
	script   map[string]reply
	watch    []string
	asked    *sight // what this backend has received
	answered *sight // what the client has received

	mu       sync.Mutex
	requests []*noted
	conns    []net.Conn
	closed   bool
	serving  sync.WaitGroup
}

// noted is a request as the backend understood it.
type noted struct{ head, body string }

func newScripted(l net.Listener, x *exchange, asked, answered *sight) *scripted {
	b := &scripted{listener: l, script: x.server, watch: x.watch, asked: asked, answered: answered}
	b.serving.Go(b.accept)
	return b
}

func (b *scripted) accept() {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		if b.closed {
			c.Close()
		} else {
			b.conns = append(b.conns, c)
			b.serving.Go(func() { b.serve(c) })
		}
		b.mu.Unlock()
	}
}

// close ends everything, and returns the requests.
func (b *scripted) close() []string {
	b.listener.Close()
	b.mu.Lock()
	b.closed = true
	for _, c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.serving.Wait()
	var all []string
	for _, n := range b.requests {
		all = append(all, n.head+n.body)
	}
	return all
}

func (b *scripted) note(head string) *noted {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := &noted{head: head}
	b.requests = append(b.requests, n)
	return n
}

func (b *scripted) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReaderSize(io.TeeReader(c, b.asked), 64<<10)
	for {
		m, err := readHead(br)
		if err != nil {
			if err != io.EOF {
				if _, broken := err.(net.Error); !broken && err != io.ErrUnexpectedEOF {
					b.note("malformed: " + err.Error())
				}
			}
			return
		}
		if m.target == probeTarget && m.method == "GET" {
			io.WriteString(c, strings.ReplaceAll("HTTP/1.1 200 OK\nContent-Length: 7\n\n"+probed, "\n", "\r\n"))
			continue
		}
		n := b.note(m.method + " " + m.target + watched(b.watch, m.fields))
		r, ok := b.script[m.target]
		if !ok {
			r = orderly
		}
		if !r.early {
			if err := m.readBody(br); err != nil {
				n.body = bodyOf(m) + " " + brokenOff(err)
				return
			}
			n.body = bodyOf(m) + watched(b.watch, m.trailer)
		}
		awaitAsked := func(text string) { b.readUntil(c, br, text) }
		if r.blind {
			awaitAsked = b.asked.awaitText
		}
		if !play(c, r.steps, b.answered.awaitText, awaitAsked) {
			return
		}
		if switches(r.steps) || r.blind {
			if r.blind {
				b.answered.awaitEnd()
			} else {
				rest, _ := io.ReadAll(br)
				n.body += fmt.Sprintf(" then %q", rest)
			}
			return
		}
		if r.early {
			if m.readBody(br) != nil {
				return
			}
		}
	}
}

// readUntil reads ahead until the backend has received the text, or nothing has come for the time of [quiet].
func (b *scripted) readUntil(c net.Conn, br *bufio.Reader, text string) {
	defer c.SetReadDeadline(time.Time{})
	for !b.asked.has(text) {
		c.SetReadDeadline(time.Now().Add(quiet))
		if _, err := br.Peek(br.Buffered() + 1); err != nil {
			return
		}
	}
}

// brokenOff says why a body has no end. Which error it is depends on who was faster.
func brokenOff(err error) string {
	if _, broken := err.(net.Error); broken || err == io.ErrUnexpectedEOF {
		return "cut"
	}
	return "malformed: " + err.Error()
}

func switches(steps []step) bool {
	return slices.ContainsFunc(steps, func(s step) bool { return strings.HasPrefix(s.text, "HTTP/1.1 101") })
}

// bodyOf is a short body itself, or its length.
func bodyOf(m *message) string {
	var s string
	switch {
	case len(m.body) > 40:
		s = fmt.Sprintf(" %d octets", len(m.body))
	case len(m.body) > 0:
		s = fmt.Sprintf(" %q", m.body)
	}
	for _, f := range m.trailer {
		s += " +" + strings.ToLower(f.name)
	}
	return s
}

// watched lists the fields that an exchange watches.
func watched(names []string, fields []field) string {
	var s strings.Builder
	for _, name := range names {
		for _, f := range fields {
			if strings.EqualFold(f.name, name) {
				fmt.Fprintf(&s, " {%s: %s}", name, f.value)
			}
		}
	}
	return s.String()
}

// play takes the steps on a connection, whoever's it is. It reports whether the connection is still open for writing.
func play(c net.Conn, steps []step, awaitClient, awaitBackend func(text string)) bool {
	for _, s := range steps {
		switch s.do {
		case doSend:
			if _, err := io.WriteString(c, s.text); err != nil {
				return false
			}
		case doAwait:
			awaitClient(s.text)
		case doAwaitAsked:
			awaitBackend(s.text)
		case doHalfClose:
			c.(interface{ CloseWrite() error }).CloseWrite()
		case doHangUp:
			c.Close()
			return false
		case doReset:
			if t, ok := c.(*net.TCPConn); ok {
				t.SetLinger(0)
			}
			c.Close()
			return false
		}
	}
	return true
}
