package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/examples/internal/selfsigned"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// An embedded instance is a small application that answers with its own name. It speaks HTTP and
// HTTPS on one port, with or without a PROXY header: the first octet says which.
//
//	/        the instance, as JSON, with what it knows about the client
//	/login   sets the cookie that the parameter cookie names; /logout deletes it
//	/status  answers with the status in the parameter code
//	/read    answers when it has read the body
//	/wait    answers after the time in the parameter for
//	/ws      a WebSocket that answers each message with the instance's name and the message
type embedded struct {
	id       string
	listener net.Listener
	server   *http.Server
	wrapped  *muxListener
}

// embeddedPlaces are where the embedded instances listen, if the system has these addresses.
var embeddedPlaces = []struct{ id, host, zone string }{
	{"i-11111111", "127.0.0.11", "us-east-1a"}, {"i-22222222", "127.0.0.12", "us-east-1a"}, {"i-33333333", "127.0.0.13", "us-east-1b"},
}

// startEmbedded starts the embedded instances, on ports that are free.
func startEmbedded() (all []*embedded, found instances, err error) {
	found = make(instances)
	for _, place := range embeddedPlaces {
		l, err := net.Listen("tcp", net.JoinHostPort(place.host, "0"))
		if err != nil { // only Linux has all of 127.0.0.0/8 without being asked
			l, err = net.Listen("tcp", "127.0.0.1:0")
		}
		if err != nil {
			return all, nil, err
		}
		e, err := newEmbedded(place.id, l)
		if err != nil {
			return all, nil, err
		}
		all = append(all, e)
		address := l.Addr().(*net.TCPAddr)
		found[place.id] = instance{id: place.id, host: address.IP.String(), port: address.Port, zone: place.zone}
	}
	return all, found, nil
}

func newEmbedded(id string, l net.Listener) (*embedded, error) {
	certificate, err := selfsigned.New("")
	if err != nil {
		return nil, err
	}
	e := &embedded{id: id, listener: l, wrapped: newMuxListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})}
	mux := http.NewServeMux()
	mux.HandleFunc("/", e.serveHome)
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) { e.serveCookie(w, r, 0) })
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) { e.serveCookie(w, r, -1) })
	mux.HandleFunc("/status", e.serveStatus)
	mux.HandleFunc("/read", e.serveRead)
	mux.HandleFunc("/wait", e.serveWait)
	mux.Handle("/ws", websocket.Server{Handler: e.serveSocket})
	e.server = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	go e.server.Serve(e.wrapped) // until stop
	return e, nil
}

func (e *embedded) stop() { e.server.Close() }

func (e *embedded) serveHome(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"instance": e.id, "path": r.URL.Path, "peer": r.RemoteAddr,
		"x-forwarded-for": r.Header.Get("X-Forwarded-For"), "x-forwarded-proto": r.Header.Get("X-Forwarded-Proto"),
		"x-forwarded-port": r.Header.Get("X-Forwarded-Port"), "cookie": r.Header.Get("Cookie"),
	})
}

func (e *embedded) serveCookie(w http.ResponseWriter, r *http.Request, age int) {
	name := r.FormValue("cookie")
	c := &http.Cookie{Name: name, Value: "of-" + e.id, Path: "/", MaxAge: age}
	if name == "" || c.Valid() != nil {
		http.Error(w, "the parameter cookie has to name a cookie", http.StatusBadRequest)
		return
	}
	http.SetCookie(w, c)
	e.serveHome(w, r)
}

func (e *embedded) serveStatus(w http.ResponseWriter, r *http.Request) {
	code := http.StatusOK
	if _, err := fmt.Sscan(r.FormValue("code"), &code); err != nil || code < 200 || code > 599 {
		code = http.StatusBadRequest
	}
	w.WriteHeader(code)
}

func (e *embedded) serveRead(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		e.serveHome(w, r)
	}
}

func (e *embedded) serveWait(w http.ResponseWriter, r *http.Request) {
	pause, _ := time.ParseDuration(r.FormValue("for"))
	select {
	case <-time.After(min(pause, time.Hour)):
		e.serveHome(w, r)
	case <-r.Context().Done():
	}
}

func (e *embedded) serveSocket(c *websocket.Conn) {
	for {
		var message string
		if err := websocket.Message.Receive(c, &message); err != nil {
			return
		}
		if err := websocket.Message.Send(c, e.id+": "+message); err != nil {
			return
		}
	}
}

// A muxListener accepts connections that may begin with a PROXY header, and then may use TLS. Each
// is looked at on a goroutine of its own, so that a silent one delays nobody.
type muxListener struct {
	*feed // of the connections that were looked at
	from  net.Listener
	tls   *tls.Config
}

func newMuxListener(l net.Listener, conf *tls.Config) *muxListener {
	m := &muxListener{feed: newFeed(l.Addr()), from: l, tls: conf}
	go m.run()
	return m
}

func (m *muxListener) run() {
	for {
		c, err := m.from.Accept()
		if err != nil {
			m.Close()
			return
		}
		go m.look(c)
	}
}

// look hands a connection on when its first octets have shown what it is.
func (m *muxListener) look(c net.Conn) {
	timer := time.AfterFunc(headerTimeout, func() { c.Close() })
	p := &peeked{Conn: c, r: bufio.NewReader(c)}
	if first, err := p.r.Peek(1); err == nil && first[0] == 'P' {
		if start, err := p.r.Peek(6); err == nil && string(start) == "PROXY " {
			m.readHeader(p)
		}
	}
	first, err := p.r.Peek(1)
	if !timer.Stop() || err != nil {
		c.Close()
		return
	}
	var next net.Conn = p
	if first[0] == 22 { // a TLS handshake (RFC 8446 section 5.1)
		next = tls.Server(p, m.tls)
	}
	if !m.push(next) {
		c.Close()
	}
}

// readHeader takes the PROXY header from the connection. Every peer is believed: the instance only
// shows the address.
func (m *muxListener) readHeader(p *peeked) {
	line, err := p.r.ReadString('\n')
	if err != nil {
		return
	}
	if h, _, err := proxyproto.Parse([]byte(line)); err == nil && h.Source != nil {
		p.remote = h.Source
	}
}

// Close implements net.Listener.
func (m *muxListener) Close() error {
	m.feed.Close()
	return m.from.Close()
}

// A peeked connection has been read from.
type peeked struct {
	net.Conn
	r      *bufio.Reader
	remote net.Addr // from a PROXY header; nil: the peer's
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// RemoteAddr implements net.Conn.
func (p *peeked) RemoteAddr() net.Addr {
	if p.remote != nil {
		return p.remote
	}
	return p.Conn.RemoteAddr()
}

// loopback reports whether a host is only for this machine.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
