package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"
)

// A simulated replica computes the blocks of a prompt that it has not cached, and then writes
// tokens.
const (
	blockBytes = 64
	cacheHolds = 500 // blocks
	blockTime  = time.Millisecond
	tokenTime  = 20 * time.Millisecond
	answer     = "It depends on what you would like to do with it ."
)

// A replica is a simulated server.
type replica struct {
	seed maphash.Seed
	gpu  chan struct{} // has an element while a prompt is computed
	// Who has gpu may use the following.
	cache map[uint64]int64 // when a block, with all before it, was last used
	now   int64
}

// A chat is a request of the API.
type chat struct {
	Model    string    `json:"model"`
	Messages []message `json:"messages"`
	Stream   bool      `json:"stream"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// A chunk is one event of the answer's stream.
type chunk struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
}

type choice struct {
	Index  int     `json:"index"`
	Delta  message `json:"delta"`
	Finish *string `json:"finish_reason"`
}

// usage counts blocks as tokens.
type usage struct {
	Prompt  int `json:"prompt_tokens"`
	Answer  int `json:"completion_tokens"`
	Total   int `json:"total_tokens"`
	Details struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func newReplica() http.Handler {
	p := &replica{seed: maphash.MakeSeed(), gpu: make(chan struct{}, 1), cache: make(map[uint64]int64)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/chat/completions", p.complete)
	return mux
}

// startReplicas starts four replicas and returns their names and URLs.
func startReplicas() (targets string, stop func()) {
	var servers []*httptest.Server
	for i := range 4 {
		s := httptest.NewServer(newReplica())
		servers = append(servers, s)
		targets += fmt.Sprintf(" replica-%d=%s", i+1, s.URL)
	}
	return targets[1:], func() {
		for _, s := range servers {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

func (p *replica) complete(w http.ResponseWriter, r *http.Request) {
	var c chat
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil || !c.Stream {
		http.Error(w, `{"error":{"message":"the request is not the JSON of a chat with \"stream\": true"}}`, http.StatusBadRequest)
		return
	}
	blocks := p.blocks(c.Messages)
	u, ok := &usage{Prompt: len(blocks)}, false
	u.Details.Cached, ok = p.compute(r.Context(), blocks)
	if !ok {
		return // the client has gone away
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(c chunk) error {
		c.ID, c.Object, c.Model = "chatcmpl-1", "chat.completion.chunk", "simulated"
		data, err := json.Marshal(c)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "data: %s\n\n", data)
		return http.NewResponseController(w).Flush()
	}
	for token := range strings.FieldsSeq(answer) {
		if send(chunk{Choices: []choice{{Delta: message{"assistant", token + " "}}}}) != nil || !pause(r.Context(), tokenTime) {
			return
		}
		u.Answer++
	}
	stop := "stop"
	u.Total = u.Prompt + u.Answer
	send(chunk{Choices: []choice{{Finish: &stop}}})
	send(chunk{Choices: []choice{}, Usage: u})
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// compute computes the blocks of a prompt that are not cached, and returns how many were. One
// prompt is computed at a time. It returns false if ctx ends before that.
func (p *replica) compute(ctx context.Context, blocks []uint64) (cached int, ok bool) {
	select {
	case p.gpu <- struct{}{}:
	case <-ctx.Done():
		return 0, false
	}
	defer func() { <-p.gpu }()
	cached = p.cached(blocks)
	if !pause(ctx, time.Duration(len(blocks)-cached)*blockTime) {
		return 0, false
	}
	p.keep(blocks)
	return cached, true
}

// pause waits, and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// blocks returns a hash for each block of the prompt. It depends on all blocks before.
func (p *replica) blocks(messages []message) (hashes []uint64) {
	var h maphash.Hash
	h.SetSeed(p.seed)
	n := 0
	for _, m := range messages {
		for _, b := range []byte(m.Role + "\n" + m.Content + "\n") {
			h.WriteByte(b)
			if n++; n%blockBytes == 0 {
				hashes = append(hashes, h.Sum64())
			}
		}
	}
	return hashes
}

// cached returns how many blocks of the beginning are cached.
func (p *replica) cached(blocks []uint64) int {
	for i, b := range blocks {
		if _, ok := p.cache[b]; !ok {
			return i
		}
	}
	return len(blocks)
}

// keep caches blocks. Those that were not used for longest make room for them, and of one prompt
// the last ones first.
func (p *replica) keep(blocks []uint64) {
	p.now += int64(len(blocks))
	for i, b := range blocks {
		p.cache[b] = p.now - int64(i)
	}
	for len(p.cache) > cacheHolds {
		var oldest uint64
		for b, used := range p.cache {
			if p.cache[oldest] == 0 || used < p.cache[oldest] {
				oldest = b
			}
		}
		delete(p.cache, oldest)
	}
}
