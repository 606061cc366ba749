package discovery_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// TestMain reads the system's DNS configuration before a test does so in a bubble: net keeps it for
// all tests. After the tests it checks that no goroutine of the sources is left.
func TestMain(m *testing.M) {
	resolver := (&zone{}).resolver()
	resolver.LookupNetIP(context.Background(), "ip4", "nowhere.test.")
	code := m.Run()
	if left := leftBehind(); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftBehind returns the stacks of all goroutines if some are still a source's or a resolver's
// after 30 seconds.
func leftBehind() string {
	var stacks strings.Builder
	for range 3000 {
		stacks.Reset()
		pprof.Lookup("goroutine").WriteTo(&stacks, 2)
		if !strings.Contains(stacks.String(), "stickylb/balancer/discovery.") &&
			!strings.Contains(stacks.String(), "net.(*Resolver)") {
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	return stacks.String()
}

// silent is the code of a name whose server does not answer.
const silent = dnsmessage.RCode(0xfff)

// maxUDP is the greatest answer over UDP that the zone's server sends.
const maxUDP = 1232

// A zone has the answers of a DNS server. The zero value knows no name.
type zone struct {
	mu      sync.Mutex
	records map[string][]dnsmessage.Resource // by name
	codes   map[string]dnsmessage.RCode      // by "A name", "AAAA name" or "SRV name"
	asked   map[string]int                   // by the same keys
	most    int                              // records in an answer; zero: all
	overTCP int
}

// set gives a name its records, instead of those that it had: addresses, "CNAME name", and "SRV
// priority weight port name". None: the name exists and has no records.
func (z *zone) set(name string, records ...string) {
	list := []dnsmessage.Resource{}
	for _, text := range records {
		list = append(list, resource(name, text))
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.records == nil {
		z.records = make(map[string][]dnsmessage.Resource)
	}
	z.records[name] = list
}

func resource(name, text string) dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 1}
	var target string
	if rest, ok := strings.CutPrefix(text, "CNAME "); ok {
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(rest)}}
	}
	if strings.HasPrefix(text, "SRV ") {
		body := &dnsmessage.SRVResource{}
		if _, err := fmt.Sscanf(text, "SRV %d %d %d %s", &body.Priority, &body.Weight, &body.Port, &target); err != nil {
			panic(text)
		}
		body.Target = dnsmessage.MustNewName(target)
		return dnsmessage.Resource{Header: h, Body: body}
	}
	addr := netip.MustParseAddr(text)
	if addr.Is4() {
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}}
	}
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}
}

// remove makes a name unknown.
func (z *zone) remove(name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.records, name)
}

// answerWith sets the code of the answers to a question such as "A app.test."; zero ends that.
func (z *zone) answerWith(code dnsmessage.RCode, questions ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.codes == nil {
		z.codes = make(map[string]dnsmessage.RCode)
	}
	for _, q := range questions {
		z.codes[q] = code
	}
}

// limit makes each answer have n records of type A, those that follow after the ones in the answer
// before.
func (z *zone) limit(n int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.most = n
}

// count returns how often a question was asked.
func (z *zone) count(question string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[question]
}

// respond returns the answer to a query, or nil for none.
func (z *zone) respond(query []byte, limit int) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	z.mu.Lock()
	defer z.mu.Unlock()
	key := strings.TrimPrefix(q.Type.String(), "Type") + " " + q.Name.String()
	if z.asked == nil {
		z.asked = make(map[string]int)
	}
	z.asked[key]++
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}}
	out.Questions = m.Questions
	if out.RCode = z.codes[key]; out.RCode == silent {
		return nil
	}
	if out.RCode == dnsmessage.RCodeSuccess {
		out.RCode, out.Answers = z.resolve(q.Name.String(), q.Type)
	}
	packed, err := out.Pack()
	if err != nil {
		panic(err)
	}
	for len(packed) > limit {
		out.Truncated = true
		out.Answers = out.Answers[:len(out.Answers)/2]
		packed, _ = out.Pack()
	}
	return packed
}

// resolve returns the records of a type, with the aliases before them.
func (z *zone) resolve(name string, kind dnsmessage.Type) (dnsmessage.RCode, []dnsmessage.Resource) {
	var answers []dnsmessage.Resource
	records, ok := z.records[name]
	if !ok {
		return dnsmessage.RCodeNameError, nil
	}
	if n := z.most; n > 0 && n < len(records) {
		i := z.asked["A "+name] * n % len(records)
		records = append(slices.Clip(records[i:min(i+n, len(records))]), records[:max(0, i+n-len(records))]...)
	}
	for _, r := range records {
		r.Header.Type = typeOf(r.Body)
		switch body := r.Body.(type) {
		case *dnsmessage.CNAMEResource:
			_, rest := z.resolve(body.CNAME.String(), kind)
			return dnsmessage.RCodeSuccess, append([]dnsmessage.Resource{r}, rest...)
		default:
			if r.Header.Type == kind {
				answers = append(answers, r)
			}
		}
	}
	return dnsmessage.RCodeSuccess, answers
}

func typeOf(body dnsmessage.ResourceBody) dnsmessage.Type {
	switch body.(type) {
	case *dnsmessage.AResource:
		return dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		return dnsmessage.TypeAAAA
	case *dnsmessage.SRVResource:
		return dnsmessage.TypeSRV
	}
	return dnsmessage.TypeCNAME
}

// resolver returns a resolver that asks the zone over pipes, so that it works in a bubble.
func (z *zone) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go z.serveStream(server)
		return client, nil
	}}
}

// serveStream answers the queries on one connection, with their lengths as over TCP.
func (z *zone) serveStream(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		if reply := z.respond(query, 65535); reply != nil {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}
	}
}

// server starts a DNS server on UDP and TCP, and returns a resolver that asks it.
func (z *zone) server(t *testing.T) *net.Resolver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	for i := 0; err != nil && i < 10; i++ { // the port is in use on UDP
		listener.Close()
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		packets, err = net.ListenPacket("udp", listener.Addr().String())
	}
	require.NoError(t, err)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			z.mu.Lock()
			z.overTCP++
			z.mu.Unlock()
			tasks.Go(func() { z.serveStream(c) })
		}
	})
	tasks.Go(func() {
		query := make([]byte, maxUDP)
		for {
			n, from, err := packets.ReadFrom(query)
			if err != nil {
				return
			}
			if reply := z.respond(query[:n], maxUDP); reply != nil {
				packets.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
		packets.Close()
		tasks.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, listener.Addr().String())
	}}
}

// addresses returns the n addresses from the i-th of 10.0.0.0/8 on.
func addresses(i, n int) []string {
	list := make([]string, n)
	for j := range list {
		k := i + j + 1
		list[j] = netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}).String()
	}
	return list
}

// shuffled returns the records in another order.
func shuffled(records []string, by int) []string {
	return slices.Concat(records[by%len(records):], records[:by%len(records)])
}
