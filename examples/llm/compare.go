package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

const (
	conversations = 24
	turns         = 12
	longest       = 20 * time.Second // of the comparison
	document      = 2000             // bytes of the first message
)

// A result is what the clients of one balancer have seen.
type result struct {
	mu               sync.Mutex
	prompted, cached int // blocks
	first            []time.Duration
	err              error // the first one
}

// compare has conversations talk through three balancers at the same time, each with four replicas
// of its own, and prints what they have seen.
func compare(ctx context.Context, stdout io.Writer, conversations, turns int) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	names := []string{"round robin", "least connections", "hash of the conversation"}
	pickers := []balancer.Picker{&balancer.RoundRobin{}, &balancer.LeastConnections{}, &balancer.Rendezvous{MaxLoad: 1.25}}
	results := make([]result, len(pickers))
	fmt.Fprintf(stdout, "%d conversations of %d turns through each of three balancers with four replicas ...\n\n", conversations, turns)
	var running sync.WaitGroup
	for i, picker := range pickers {
		running.Go(func() { results[i].play(ctx, picker, conversations, turns) })
	}
	running.Wait()
	table := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tanswers\tof the prompts cached\tfirst token: median\t95%\t")
	for i := range results {
		r := &results[i]
		if r.err != nil || len(r.first) == 0 {
			return fmt.Errorf("%s: %w", names[i], errors.Join(r.err, ctx.Err()))
		}
		slices.Sort(r.first)
		fmt.Fprintf(table, "%s\t%d\t%.0f%%\t%d ms\t%d ms\t\n", names[i], len(r.first), 100*r.share(),
			r.first[len(r.first)/2].Milliseconds(), r.first[len(r.first)*95/100].Milliseconds())
	}
	return table.Flush()
}

// share returns which part of the prompts was cached.
func (r *result) share() float64 { return float64(r.cached) / float64(max(r.prompted, 1)) }

// play runs a balancer with four replicas and the clients of its conversations.
func (r *result) play(ctx context.Context, picker balancer.Picker, conversations, turns int) {
	replicas, stop := startReplicas()
	defer stop()
	lb, err := newProxy(replicas, picker)
	if err != nil {
		r.err = err
		return
	}
	defer lb.Close()
	front := httptest.NewServer(lb)
	defer front.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: conversations}
	defer transport.CloseIdleConnections()
	var running sync.WaitGroup
	for n := range conversations {
		running.Go(func() {
			if err := r.converse(ctx, &http.Client{Transport: transport}, front.URL, uint64(n), turns); err != nil && ctx.Err() == nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.err = errors.Join(r.err, err)
			}
		})
	}
	running.Wait()
}

// converse plays a conversation. Each request has all messages so far.
func (r *result) converse(ctx context.Context, client *http.Client, url string, n uint64, turns int) error {
	random := rand.New(rand.NewPCG(n, 0)) // alike for all balancers
	c := chat{Model: "simulated", Stream: true, Messages: []message{{"user", text(random, document)}}}
	for range turns {
		if !pause(ctx, time.Duration(random.IntN(600))*time.Millisecond) {
			return ctx.Err()
		}
		said, err := r.ask(ctx, client, url, c)
		if err != nil {
			return err
		}
		c.Messages = append(c.Messages, message{"assistant", said}, message{"user", text(random, 100)})
	}
	return nil
}

// text returns n random letters.
func text(random *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + random.IntN(26))
	}
	return string(b)
}

// ask sends a request and reads its stream.
func (r *result) ask(ctx context.Context, client *http.Client, url string, c chat) (said string, err error) {
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	began := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", errors.New(res.Status)
	}
	var first time.Duration
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
			continue
		case data == "[DONE]":
			return said, nil
		case first == 0:
			first = time.Since(began)
		}
		var c chunk
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			return "", err
		}
		if len(c.Choices) > 0 {
			said += c.Choices[0].Delta.Content
		}
		if c.Usage != nil {
			r.mu.Lock()
			r.first = append(r.first, first)
			r.prompted += c.Usage.Prompt
			r.cached += c.Usage.Details.Cached
			r.mu.Unlock()
		}
	}
	return "", errors.New("the stream broke off")
}
