package peertest_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A frame is a step of a client that speaks HTTP/2: a frame, or a wait for one.
type frame struct {
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
	fields []field // of HEADERS, as they are
	data   []byte
	awaits string // not a frame: wait for the "header" of the stream, its "end", or data at the "backend"
}

// headers opens a stream with a request: "GET /a", and fields as "name: value". A field that begins with a colon
// replaces or adds a pseudo-header.
func headers(stream uint32, request string, fields ...string) frame {
	method, path, _ := strings.Cut(request, " ")
	pseudo := []field{{":method", method}, {":scheme", "https"}, {":authority", "app"}, {":path", path}}
	var rest []field
	for _, line := range fields {
		f := fieldOf(line)
		i := slices.IndexFunc(pseudo, func(p field) bool { return p.name == f.name })
		switch {
		case i >= 0 && f.value == "-":
			pseudo = slices.Delete(pseudo, i, i+1)
		case i >= 0:
			pseudo[i] = f
		default:
			rest = append(rest, f)
		}
	}
	return frame{kind: http2.FrameHeaders, flags: http2.FlagHeadersEndHeaders, stream: stream, fields: append(pseudo, rest...)}
}

// fieldOf reads "name: value", where a name may begin with a colon.
func fieldOf(line string) field {
	i := strings.Index(line[1:], ": ") + 1
	return field{line[:i], line[i+2:]}
}

// trailers ends a stream with these fields.
func trailers(stream uint32, fields ...string) frame {
	f := frame{kind: http2.FrameHeaders, flags: http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream, stream: stream}
	for _, line := range fields {
		f.fields = append(f.fields, fieldOf(line))
	}
	return f
}

func data(stream uint32, text string) frame {
	return frame{kind: http2.FrameData, stream: stream, data: []byte(text)}
}

// end is the frame with END_STREAM.
func (f frame) end() frame {
	f.flags |= http2.FlagDataEndStream // the flag has the same bit in HEADERS
	return f
}

// resetStream sends RST_STREAM with CANCEL.
func resetStream(stream uint32) frame {
	return frame{kind: http2.FrameRSTStream, stream: stream, data: []byte{0, 0, 0, byte(http2.ErrCodeCancel)}}
}

// answeredOn waits for the header of the stream's answer, endedOn for the end of the stream, asked for what the backend
// receives.
func answeredOn(stream uint32) frame { return frame{stream: stream, awaits: "header"} }
func endedOn(stream uint32) frame    { return frame{stream: stream, awaits: "end"} }
func asked(text string) frame        { return frame{data: []byte(text), awaits: "backend"} }

// A streamState is what a client knows of a stream.
type streamState struct {
	answers []string
	body    string
	begun   bool
	ended   bool
	reset   bool
	trailer string
}

func (s *streamState) text() string {
	all := slices.Clone(s.answers)
	if n := len(all); n > 0 {
		if strings.HasPrefix(s.body, "@") {
			if all[n-1] += " " + s.body; len(s.body) > 40 {
				all[n-1] = fmt.Sprintf("%s... %d octets", all[n-1][:5], len(s.body))
			}
		}
		all[n-1] += s.trailer
	}
	switch {
	case s.reset && s.begun:
		all = append(all, "cut")
	case s.reset:
		all = append(all, "reset")
	case !s.ended && s.begun:
		all = append(all, "open")
	case !s.ended:
		all = append(all, "nothing")
	}
	return strings.Join(all, " ")
}

// An h2client frames by hand.
type h2client struct {
	x       *exchange
	c       net.Conn
	mu      sync.Mutex // guards what follows
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	streams map[uint32]*streamState
	order   []uint32
	told    *sight
}

// playFrames plays the client's side of an exchange over HTTP/2.
func (x *exchange) playFrames(c net.Conn, asked *sight) (answers []string, connection string) {
	h := &h2client{x: x, c: c, framer: http2.NewFramer(c, c), streams: make(map[uint32]*streamState), told: newSight()}
	h.encoder = hpack.NewEncoder(&h.block)
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(c, http2.ClientPreface)
	h.framer.WriteSettings()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.read()
	}()
	for _, f := range x.frames {
		h.do(f, asked)
	}
	h.awaitAll()
	last := uint32(1)
	for _, id := range h.order {
		last = max(last, id)
	}
	h.do(headers(last+200, "GET "+probeTarget).end(), asked)
	h.do(endedOn(last+200), asked)
	c.Close()
	<-done
	connection = closes
	for _, id := range h.order {
		s := h.streams[id]
		if id == last+200 {
			if s.body == probed {
				connection = lives
			}
			continue
		}
		answers = append(answers, fmt.Sprintf("%d: %s", id, s.text()))
	}
	return answers, connection
}

// awaitAll waits until all streams have ended.
func (h *h2client) awaitAll() {
	h.await(func() bool {
		for _, s := range h.streams {
			if !s.ended {
				return false
			}
		}
		return true
	})
}

func (h *h2client) await(ready func() bool) {
	h.told.await(func(_ []byte, _ bool) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return ready()
	})
}

// stream returns the state of a stream. h.mu is held.
func (h *h2client) stream(id uint32) *streamState {
	s := h.streams[id]
	if s == nil {
		s = new(streamState)
		h.streams[id] = s
		h.order = append(h.order, id)
	}
	return s
}

func (h *h2client) do(f frame, asked *sight) {
	switch f.awaits {
	case "backend":
		asked.awaitText(string(f.data))
		return
	case "header":
		h.await(func() bool { s := h.stream(f.stream); return s.begun || s.ended })
		return
	case "end":
		h.await(func() bool { return h.stream(f.stream).ended })
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.kind == http2.FrameHeaders && f.data == nil {
		if f.stream%2 == 1 {
			h.stream(f.stream)
		}
		h.block.Reset()
		for _, field := range f.fields {
			h.encoder.WriteField(hpack.HeaderField{Name: field.name, Value: field.value})
		}
		f.data = h.block.Bytes()
	}
	if f.kind == http2.FrameRSTStream {
		h.stream(f.stream).ended = true
	}
	h.framer.WriteRawFrame(f.kind, f.flags, f.stream, f.data)
}

// read notes what comes until the connection ends.
func (h *h2client) read() {
	defer h.told.end()
	for {
		f, err := h.framer.ReadFrame()
		h.mu.Lock()
		if err != nil {
			for _, s := range h.streams {
				s.reset = s.reset || !s.ended
				s.ended = true
			}
			h.mu.Unlock()
			return
		}
		h.note(f)
		h.mu.Unlock()
		h.told.Write(nil)
	}
}

// note takes a frame. h.mu is held.
func (h *h2client) note(f http2.Frame) {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			h.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			h.framer.WritePing(true, f.Data)
		}
	case *http2.MetaHeadersFrame:
		h.stream(id).header(f, h.x.watch)
		h.stream(id).ended = h.stream(id).ended || f.StreamEnded()
	case *http2.DataFrame:
		s := h.stream(id)
		s.body += string(f.Data())
		s.ended = s.ended || f.StreamEnded()
		if n := uint32(len(f.Data())); n > 0 {
			h.framer.WriteWindowUpdate(0, n)
			h.framer.WriteWindowUpdate(id, n)
		}
	case *http2.RSTStreamFrame:
		s := h.stream(id)
		s.reset = s.reset || !s.ended // after the end it is no news: it stops the client
		s.ended = true
	}
}

func (s *streamState) header(f *http2.MetaHeadersFrame, watch []string) {
	var fields []field
	for _, hf := range f.RegularFields() {
		fields = append(fields, field{hf.Name, hf.Value})
	}
	status := f.PseudoValue("status")
	switch {
	case status == "":
		for _, f := range fields {
			s.trailer += " +" + f.name
		}
		s.trailer += watched(watch, fields)
	case status[0] == '1':
		s.answers = append(s.answers, status+watched(watch, fields))
	default:
		s.begun = true
		s.answers = append(s.answers, status[:1]+"xx"+watched(watch, fields))
	}
}
