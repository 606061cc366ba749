package peertest_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
)

var onlyLike = flag.String("exchange", "", "play only exchanges with this in their name")

// tables has all exchanges.
var tables = [][]exchange{framing, bodies, connections, upgrades, responses, overHTTP2}

// The peers that exchanges are compared with.
const (
	peerReverse = "ReverseProxy"
	peerHAProxy = "HAProxy"
	peerNginx   = "nginx"
	ourselves   = "stickylb" // over both transports
)

// recordedFile has what the peers do: outcomes by exchange and peer, several where a peer does now this and now that.
const recordedFile = "testdata/exchanges.json"

type recording map[string]map[string][]outcome

func readRecording(t *testing.T) recording {
	t.Helper()
	text, err := os.ReadFile(recordedFile)
	require.NoError(t, err)
	var r recording
	require.NoError(t, json.Unmarshal(text, &r))
	return r
}

// add adds an outcome if it is another one.
func (r recording) add(w way, who string, o outcome) {
	if r[w.String()] == nil {
		r[w.String()] = make(map[string][]outcome)
	}
	if !slices.ContainsFunc(r[w.String()][who], o.equal) {
		r[w.String()][who] = append(r[w.String()][who], o)
	}
}

// replace puts new outcomes in place of those of these proxies. Without -exchange, exchanges that are not among them go.
func (r recording) replace(found recording, who ...string) {
	if *onlyLike == "" {
		maps.DeleteFunc(r, func(name string, _ map[string][]outcome) bool { return found[name] == nil })
	}
	for name, outcomes := range found {
		if r[name] == nil {
			r[name] = make(map[string][]outcome)
		}
		for _, peer := range who {
			r[name][peer] = outcomes[peer]
		}
	}
}

// text is what is in the file: JSON, with a line for each outcome.
func (r recording) text(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	between := "{"
	for _, name := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(&b, "%s\n%q: {", between, name)
		between = ","
		comma := ""
		for _, peer := range slices.Sorted(maps.Keys(r[name])) {
			line, err := json.Marshal(r[name][peer])
			require.NoError(t, err)
			fmt.Fprintf(&b, "%s\n\t%q: %s", comma, peer, line)
			comma = ","
		}
		b.WriteString("}")
	}
	b.WriteString("\n}\n")
	return b.Bytes()
}

// tries is how often an exchange is played until it has its recorded outcome.
const tries = 5

// parallel is how many exchanges are played at a time: most of them wait most of the time.
const parallel = 32

// playAll plays those of all exchanges that are wanted through a front, and hands each outcome over.
func playAll(t *testing.T, f front, p *pki, all []way, wanted func(way) bool, take func(w way, o outcome, err error)) {
	t.Helper()
	places := make(chan struct{}, parallel)
	var playing sync.WaitGroup
	var mu sync.Mutex
	var chosen []int // before take is called, on which wanted may depend
	for i, w := range all {
		if wanted(w) {
			chosen = append(chosen, i)
		}
	}
	for _, i := range chosen {
		w := all[i]
		places <- struct{}{}
		playing.Go(func() {
			defer func() { <-places }()
			o, err := playOnce(t, f, p, i, w)
			mu.Lock()
			defer mu.Unlock()
			take(w, o, err)
		})
	}
	playing.Wait()
}

// askedFor reports whether the flag asks for an exchange.
func askedFor(w way) bool { return strings.Contains(w.String(), *onlyLike) }

func playOnce(t *testing.T, f front, p *pki, i int, w way) (outcome, error) {
	addr, back, stop := f.open(t, i, w)
	answered, asked := newSight(), newSight()
	b := newScripted(back, w.exchange, asked, answered)
	c, err := dialFront(addr, p, w)
	if err != nil {
		return outcome{}, err
	}
	var o outcome
	if w.over == "HTTP/2" {
		o.Answers, o.Connection = w.playFrames(c, asked)
	} else {
		o.Answers, o.Connection = w.playClient(c, answered, asked)
	}
	answered.end()
	err = stop()
	o.Backend = b.close()
	for _, all := range [][]string{o.Answers, o.Backend} {
		for i := range all {
			all[i] = strings.ToValidUTF8(all[i], "?") // as JSON would have it
		}
	}
	return o, err
}

func dialFront(addr string, p *pki, w way) (net.Conn, error) {
	if w.over == "" {
		return net.Dial("tcp", addr)
	}
	conf := &tls.Config{RootCAs: p.authority, ServerName: host, NextProtos: []string{"http/1.1"}}
	if w.over == "HTTP/2" {
		conf.NextProtos = []string{"h2"}
	}
	return tls.Dial("tcp", addr, conf)
}

// Every exchange has the same outcome through a Proxy, over either of its transports, as it had when it was recorded, and
// the same as through the peers; where it has not, the table of differences has the reason. No exchange leaves anything
// behind. What a client that goes away still brings about is a matter of who is quicker: an exchange with another outcome
// than the recorded one is played again. What must never happen is looked for each time.
func TestExchanges(t *testing.T) {
	known, found := readRecording(t), recording{}
	before := leaktest.Settled(t)
	p, all := newPKI(t), ways()
	judge := newJudge()
	for _, transport := range []string{"own transport", "http.Transport"} {
		f := stickylbFront(p, nil)
		if transport == "http.Transport" {
			f = stickylbFront(p, newHTTPTransport)
		}
		again := make(map[string]bool) // by exchange: it did not do what is recorded
		for round := range tries {
			wanted := func(w way) bool { return askedFor(w) && (round == 0 || again[w.String()]) }
			playAll(t, f, p, all, wanted, func(w way, o outcome, err error) {
				if err != nil {
					t.Errorf("%s, %s: %v\n%v", w, transport, err, o)
				}
				if wrong := w.violation(o); wrong != "" {
					t.Errorf("%s, %s: %s\n%v", w, transport, wrong, o)
				}
				recorded := known[w.String()]
				if recorded == nil {
					t.Errorf("%s is not recorded", w)
				}
				as := slices.ContainsFunc(recorded[ourselves], o.equal)
				if again[w.String()] = !as; !as && !*rewrite && round < tries-1 {
					return
				}
				found.add(w, ourselves, o)
				for peer, outcomes := range recorded {
					if peer != ourselves || !*rewrite {
						judge.compare(t, w, transport, o, peer, outcomes)
					}
				}
			})
			if *rewrite {
				break
			}
		}
	}
	if *rewrite {
		known.replace(found, ourselves)
		require.NoError(t, os.WriteFile(recordedFile, known.text(t), 0o644))
	}
	if *onlyLike == "" {
		judge.requireAll(t)
	}
	leaktest.RequireNoMore(t, before)
}

// The peers still do what is recorded. With -rewrite it is written down anew:
//
//	go test -run 'TestExchanges_Peers$' -rewrite
func TestExchanges_Peers(t *testing.T) {
	p, all := newPKI(t), ways()
	names := make(map[string]bool)
	for _, w := range all {
		require.False(t, names[w.String()], "two exchanges have the name %s", w)
		names[w.String()] = true
	}
	known, found := readRecording(t), recording{}
	unknown := make(map[string]outcome) // by exchange and peer
	for round := range 3 {
		fronts := map[string]front{
			peerReverse: reverseProxyFront(p),
			peerHAProxy: haproxyFront(t, p, all),
			peerNginx:   nginxFront(t, p, all),
		}
		for peer, f := range fronts {
			wanted := func(w way) bool { // a peer may do what it does seldom: then it gets another chance
				_, again := unknown[w.String()+", "+peer]
				return askedFor(w) && (*rewrite || round == 0 || again)
			}
			playAll(t, f, p, all, wanted, func(w way, o outcome, err error) {
				if err != nil {
					t.Errorf("%s, %s: %v", w, peer, err)
				}
				found.add(w, peer, o)
				if delete(unknown, w.String()+", "+peer); !slices.ContainsFunc(known[w.String()][peer], o.equal) {
					unknown[w.String()+", "+peer] = o
				}
			})
		}
		if !*rewrite && len(unknown) == 0 {
			return
		}
	}
	if *rewrite {
		known.replace(found, peerReverse, peerHAProxy, peerNginx)
		require.NoError(t, os.WriteFile(recordedFile, known.text(t), 0o644))
		return
	}
	for who, o := range unknown {
		t.Errorf("%s, does not do any more what is recorded (see -rewrite): %v", who, o)
	}
}

func (o outcome) equal(other outcome) bool { return len(o.differs(other)) == 0 }

// What two outcomes may differ in.
const (
	inAnswers    = "answers"
	inConnection = "connection"
	inBackend    = "backend"
)

// differs lists in what.
func (o outcome) differs(other outcome) (in []string) {
	if !slices.Equal(o.Answers, other.Answers) {
		in = append(in, inAnswers)
	}
	if o.Connection != other.Connection {
		in = append(in, inConnection)
	}
	if !slices.Equal(o.Backend, other.Backend) {
		in = append(in, inBackend)
	}
	return in
}

// violation says what no proxy may do, whatever the others do: ask the backend for what the client's bytes do not have,
// or write what is no request.
func (w way) violation(o outcome) string {
	for _, r := range o.Backend {
		if strings.HasPrefix(r, "malformed") || strings.Contains(r, "malformed: ") {
			return "the backend got what is no request"
		}
		if head := strings.Fields(r); len(head) > 1 && strings.Contains(head[1], "smuggled") {
			return "a body was answered as a request"
		}
	}
	return ""
}

// A difference is why a Proxy and a peer do not do the same.
type difference struct {
	because   string
	peer      string
	in        string // inAnswers, inConnection and inBackend, with spaces between them
	exchanges []string
}

// A judge compares outcomes.
type judge struct {
	excused map[string]*excuse // by exchange, peer and what differs
}

type excuse struct {
	because string
	used    bool
}

func newJudge() *judge {
	j := &judge{excused: make(map[string]*excuse)}
	for _, d := range differences {
		for _, name := range d.exchanges {
			for in := range strings.FieldsSeq(d.in) {
				j.excused[name+"\n"+d.peer+"\n"+in] = &excuse{because: d.because}
			}
		}
	}
	return j
}

// compare requires that ours is one of the peer's outcomes, but for what is excused.
func (j *judge) compare(t *testing.T, w way, transport string, ours outcome, peer string, theirs []outcome) {
	t.Helper()
	var least []string
	var nearest outcome
	for i, o := range theirs {
		if in := ours.differs(o); i == 0 || len(in) < len(least) {
			least, nearest = in, o
		}
	}
	var unexplained []string
	for _, in := range least {
		if e := j.excused[w.String()+"\n"+peer+"\n"+in]; e != nil && peer != ourselves {
			e.used = true
		} else {
			unexplained = append(unexplained, in)
		}
	}
	if len(unexplained) > 0 {
		t.Errorf("%s, %s, differs from %s in %s\nours:   %v\ntheirs: %v", w, transport, peer,
			strings.Join(unexplained, " and "), ours, nearest)
	}
}

// requireAll fails the test for every difference of the table that did not occur.
func (j *judge) requireAll(t *testing.T) {
	t.Helper()
	for what, e := range j.excused {
		if !e.used {
			t.Errorf("no such difference any more (%s): %q", e.because, strings.Split(what, "\n"))
		}
	}
}
