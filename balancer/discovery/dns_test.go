package discovery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A watcher keeps the sets that a source reports, and its log.
type watcher struct {
	mu    sync.Mutex
	sets  []string // each target as text, with spaces between
	times []time.Time
	err   error // what report returns
	log   bytes.Buffer
}

func (w *watcher) report(targets []balancer.Target) error {
	texts := make([]string, len(targets))
	for i, t := range targets {
		texts[i] = t.String()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sets, w.times = append(w.sets, strings.Join(texts, " ")), append(w.times, time.Now())
	for i := range targets { // they are the watcher's own
		targets[i].URL.Host, targets[i].Labels = "changed", map[string]string{"changed": ""}
	}
	return w.err
}

func (w *watcher) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write implements io.Writer for the log.
func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *watcher) refuse(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// reports returns how many sets were reported.
func (w *watcher) reports() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sets)
}

// last returns the IDs of the last set, and when it was reported.
func (w *watcher) last() (ids string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) == 0 {
		return "none", time.Time{}
	}
	var list []string
	for text := range strings.FieldsSeq(w.sets[len(w.sets)-1]) {
		id, _, _ := strings.Cut(text, "=")
		list = append(list, id)
	}
	return strings.Join(list, " "), w.times[len(w.times)-1]
}

// warnings returns the number of warnings that have text.
func (w *watcher) warnings(text string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.log.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// text returns the log.
func (w *watcher) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// A runner is a source that can be run.
type runner interface {
	Run(ctx context.Context) error
	Ready(ctx context.Context) error
}

// inBubble runs a source beside f in a bubble, which also checks that no goroutine is left.
func inBubble(t *testing.T, source runner, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- source.Run(ctx) }()
		synctest.Wait()
		f(t)
		cancel()
		synctest.Wait()
		select {
		case err := <-ended:
			require.NoError(t, err)
		default:
			require.Fail(t, "Run does not end at once")
		}
	})
}

// plain returns a source of the addresses of app.test.
func plain(z *zone, w *watcher) *discovery.DNS {
	return &discovery.DNS{Name: "app.test", Port: 80, Resolver: z.resolver(), Report: w.report, Logger: w.logger()}
}

func TestDNS_Targets(t *testing.T) {
	tests := map[string]struct {
		source  *discovery.DNS
		records map[string][]string
		want    string
	}{
		"A and AAAA": {
			&discovery.DNS{Name: "app.test", Port: 8080},
			map[string][]string{"app.test.": {"10.0.0.2", "10.0.0.1", "2001:db8::1"}},
			"10.0.0.1:8080=http://app.test:8080;addr=10.0.0.1:8080 10.0.0.2:8080=http://app.test:8080;addr=10.0.0.2:8080 " +
				"[2001:db8::1]:8080=http://app.test:8080;addr=[2001:db8::1]:8080",
		},
		"IPv4": {
			&discovery.DNS{Name: "app.test.", Port: 80, Family: discovery.IPv4},
			map[string][]string{"app.test.": {"10.0.0.1", "2001:db8::1"}},
			"10.0.0.1:80=http://app.test;addr=10.0.0.1:80",
		},
		"IPv6": {
			&discovery.DNS{Name: "App.Test", Port: 80, Family: discovery.IPv6, Scheme: "ws"},
			map[string][]string{"app.test.": {"10.0.0.1", "2001:db8::1"}},
			"[2001:db8::1]:80=http://app.test;addr=[2001:db8::1]:80",
		},
		"https": {
			&discovery.DNS{Name: "app.test.", Port: 443, Scheme: "HTTPS"},
			map[string][]string{"app.test.": {"10.0.0.1"}},
			"10.0.0.1:443=https://app.test;addr=10.0.0.1:443;server-name=app.test",
		},
		"tcp": {
			&discovery.DNS{Name: "app.test.", Port: 6379, Scheme: "tcp"},
			map[string][]string{"app.test.": {"10.0.0.1"}},
			"10.0.0.1:6379=tcp://app.test:6379;addr=10.0.0.1:6379;server-name=app.test",
		},
		"an internationalised name": {
			&discovery.DNS{Name: "bücher.test", Port: 80},
			map[string][]string{"xn--bcher-kva.test.": {"10.0.0.1"}},
			"10.0.0.1:80=http://xn--bcher-kva.test;addr=10.0.0.1:80",
		},
		"aliases": {
			&discovery.DNS{Name: "app.test", Port: 80},
			map[string][]string{"app.test.": {"CNAME b.test."}, "b.test.": {"CNAME c.test."}, "c.test.": {"10.0.0.1"}},
			"10.0.0.1:80=http://app.test;addr=10.0.0.1:80",
		},
		"addresses that nobody can connect to, or this machine": {
			&discovery.DNS{Name: "app.test", Port: 80},
			map[string][]string{"app.test.": {
				"0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "fe80::1", "::ffff:0.0.0.0", "10.0.0.1", "10.0.0.1",
			}},
			"10.0.0.1:80=http://app.test;addr=10.0.0.1:80",
		},
		"SRV": {
			&discovery.DNS{Name: "_http._tcp.app.test", Scheme: "https"},
			map[string][]string{
				"_http._tcp.app.test.": {"SRV 20 5 81 b.test.", "SRV 10 3 82 a.test.", "SRV 10 1 83 a.test."},
				"a.test.":              {"10.0.0.1", "10.0.0.2"}, "b.test.": {"2001:db8::1"},
			},
			"10.0.0.1:82=https://app.test:82;addr=10.0.0.1:82;server-name=app.test;weight=3;label.host=a.test " +
				"10.0.0.1:83=https://app.test:83;addr=10.0.0.1:83;server-name=app.test;label.host=a.test " +
				"10.0.0.2:82=https://app.test:82;addr=10.0.0.2:82;server-name=app.test;weight=3;label.host=a.test " +
				"10.0.0.2:83=https://app.test:83;addr=10.0.0.2:83;server-name=app.test;label.host=a.test " +
				"[2001:db8::1]:81=https://app.test:81;addr=[2001:db8::1]:81;server-name=app.test;weight=5;backup;label.host=b.test",
		},
		"SRV weights of zero": {
			&discovery.DNS{Name: "app.test"},
			map[string][]string{
				"app.test.": {"SRV 1 0 81 a.test.", "SRV 1 65535 82 a.test.", "SRV 1 1 83 a.test."}, "a.test.": {"10.0.0.1"},
			},
			"10.0.0.1:81=http://app.test:81;addr=10.0.0.1:81;label.host=a.test " +
				"10.0.0.1:82=http://app.test:82;addr=10.0.0.1:82;weight=1048560;label.host=a.test " +
				"10.0.0.1:83=http://app.test:83;addr=10.0.0.1:83;weight=16;label.host=a.test",
		},
		"SRV with a port of zero": {
			&discovery.DNS{Name: "_a._tcp.app.test"},
			map[string][]string{
				"_a._tcp.app.test.": {"SRV 0 1 0 a.test.", "SRV 1 1 80 a.test."}, "a.test.": {"10.0.0.1"},
			},
			"10.0.0.1:80=http://app.test;addr=10.0.0.1:80;label.host=a.test",
		},
		"SRV with one address under two names, an unknown name and none": {
			&discovery.DNS{Name: "_a._tcp.app.test"},
			map[string][]string{
				"_a._tcp.app.test.": {"SRV 2 0 81 a.test.", "SRV 1 0 81 b.test.", "SRV 0 9 81 unknown.test.", "SRV 0 9 81 ."},
				"a.test.":           {"10.0.0.1"}, "b.test.": {"10.0.0.1"},
			},
			"10.0.0.1:81=http://app.test:81;addr=10.0.0.1:81;label.host=b.test",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			z, w := &zone{}, &watcher{}
			for name, records := range tt.records {
				z.set(name, records...)
			}
			tt.source.Resolver, tt.source.Report, tt.source.Logger = z.resolver(), w.report, w.logger()
			inBubble(t, tt.source, func(t *testing.T) {
				require.NoError(t, tt.source.Ready(t.Context()))
				require.Equal(t, []string{tt.want}, w.sets)
				time.Sleep(5 * time.Minute)
				require.Len(t, w.sets, 1, "nothing has changed")
				require.Empty(t, w.text())
			})
		})
	}
}

func TestDNS_Refuses(t *testing.T) {
	report := func([]balancer.Target) error { return nil }
	for want, source := range map[string]*discovery.DNS{
		"Report is nil":          {Name: "app.test", Port: 80},
		"must not be negative":   {Name: "app.test", Port: 80, Report: report, Interval: -1},
		"Timeout":                {Name: "app.test", Port: 80, Report: report, Timeout: -1},
		"MaxTargets":             {Name: "app.test", Port: 80, Report: report, MaxTargets: -1},
		"Family 3":               {Name: "app.test", Port: 80, Report: report, Family: 3},
		"is an address":          {Name: "10.0.0.1", Port: 80, Report: report},
		"\"2001:db8::1\" is an":  {Name: "2001:db8::1", Port: 80, Report: report},
		"the URL has no host":    {Port: 80, Report: report},
		"empty or longer":        {Name: "app..test", Port: 80, Report: report},
		"longer than 63":         {Name: strings.Repeat("a", 64) + ".test", Port: 80, Report: report},
		"scheme \"ftp\" is none": {Name: "app.test", Port: 80, Report: report, Scheme: "ftp"},
		"\"app test\"":           {Name: "app test", Port: 80, Report: report},
		"\"app.test:80\"":        {Name: "app.test:80", Port: 80, Report: report},
		"the host is too long":   {Name: strings.Repeat("a.", 130), Port: 80, Report: report},
	} {
		err := source.Run(t.Context())
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "discovery: DNS.")
		require.Equal(t, err, source.Ready(t.Context()), "Ready need not wait")
	}
}

// The IDs are the same for all instances and after restarts. Another order of the same addresses is
// not reported.
func TestDNS_OrderDoesNotMatter(t *testing.T) {
	z, w := &zone{}, &watcher{}
	records := append(addresses(0, 20), "2001:db8::1", "2001:db8::2")
	z.set("app.test.", records...)
	inBubble(t, plain(z, w), func(t *testing.T) {
		first, _ := w.last()
		for i := range 30 {
			z.set("app.test.", shuffled(records, i)...)
			time.Sleep(33 * time.Second)
		}
		require.Len(t, w.sets, 1)

		again := &watcher{}
		other := plain(z, again)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go other.Run(ctx)
		require.NoError(t, other.Ready(t.Context()))
		after, _ := again.last()
		require.Equal(t, first, after)
	})
}

func TestDNS_GoesAfterThreeAnswersAndHold(t *testing.T) {
	tests := map[string]struct {
		interval, hold     time.Duration
		earliest, atLatest time.Duration
	}{
		"by default":         {0, 0, 54 * time.Second, 99 * time.Second},
		"often":              {time.Second, 0, 30 * time.Second, 34 * time.Second},
		"less than a second": {1, 0, 30 * time.Second, 34 * time.Second},
		"three answers":      {time.Minute, time.Second, 108 * time.Second, 198 * time.Second},
		"a long hold":        {time.Second, time.Minute, time.Minute, 64 * time.Second},
		"none":               {10 * time.Second, -1, 0, 11 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			z, w := &zone{}, &watcher{}
			z.set("app.test.", "10.0.0.1", "10.0.0.2")
			source := plain(z, w)
			source.Interval, source.Hold = tt.interval, tt.hold
			inBubble(t, source, func(t *testing.T) {
				time.Sleep(time.Minute)
				gone := time.Now()
				z.set("app.test.", "10.0.0.2", "10.0.0.3")
				time.Sleep(4 * time.Minute)
				ids, at := w.last()
				require.Equal(t, "10.0.0.2:80 10.0.0.3:80", ids)
				require.GreaterOrEqual(t, at.Sub(gone), tt.earliest)
				require.LessOrEqual(t, at.Sub(gone), tt.atLatest)
				require.Empty(t, w.text())
			})
		})
	}
}

func TestDNS_PartialAnswersTakeNothingAway(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.set("app.test.", addresses(0, 9)...)
	source := plain(z, w)
	source.Family = discovery.IPv4
	inBubble(t, source, func(t *testing.T) {
		z.limit(3) // each address is in one of three answers
		time.Sleep(time.Hour)
		require.Equal(t, 1, w.reports())
	})
}

func TestDNS_FailuresTakeNothingAway(t *testing.T) {
	both := []string{"A app.test.", "AAAA app.test."}
	tests := map[string]struct {
		code      dnsmessage.RCode
		questions []string
		log       string
	}{
		"server failure": {dnsmessage.RCodeServerFailure, both, "the lookup fails"},
		"refused":        {dnsmessage.RCodeRefused, both, "the lookup fails"},
		"no answer":      {silent, both, "the lookup fails"},
		"AAAA fails":     {dnsmessage.RCodeServerFailure, both[1:], "a part of the lookup fails"},
		"AAAA no answer": {silent, both[1:], "a part of the lookup fails"},
		"A fails":        {dnsmessage.RCodeServerFailure, both[:1], "a part of the lookup fails"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			z, w := &zone{}, &watcher{}
			z.set("app.test.", "10.0.0.1", "10.0.0.2", "2001:db8::1")
			inBubble(t, plain(z, w), func(t *testing.T) {
				require.Equal(t, 1, w.reports())
				z.answerWith(tt.code, tt.questions...)
				time.Sleep(time.Hour)
				require.Equal(t, 1, w.reports())
				require.Equal(t, 1, w.warnings(tt.log), "once")
				require.Equal(t, 1, w.warnings(""), "nothing else")
				z.answerWith(0, tt.questions...)
				time.Sleep(time.Minute)
				require.Contains(t, w.text(), "level=INFO msg=\"discovery: over: "+tt.log)
				require.Equal(t, 1, w.reports())
			})
		})
	}
}

// While the lookup of one family fails, changes of the other one are still reported.
func TestDNS_FamiliesAreIndependent(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.set("app.test.", "10.0.0.1", "2001:db8::1")
	inBubble(t, plain(z, w), func(t *testing.T) {
		z.answerWith(dnsmessage.RCodeServerFailure, "AAAA app.test.")
		z.set("app.test.", "10.0.0.2")
		time.Sleep(5 * time.Minute)
		ids, _ := w.last()
		require.Equal(t, "10.0.0.2:80 [2001:db8::1]:80", ids)
		z.answerWith(0, "AAAA app.test.")
		time.Sleep(5 * time.Minute)
		ids, _ = w.last()
		require.Equal(t, "10.0.0.2:80", ids)
	})
}

func TestDNS_EmptyAnswersAreHeld(t *testing.T) {
	empty := map[string]func(*zone){
		"the name is gone":           func(z *zone) { z.remove("app.test.") },
		"no records":                 func(z *zone) { z.set("app.test.") },
		"no usable address":          func(z *zone) { z.set("app.test.", "0.0.0.0") },
		"an alias that goes nowhere": func(z *zone) { z.set("app.test.", "CNAME nowhere.test.") },
	}
	for name, makeEmpty := range empty {
		t.Run(name, func(t *testing.T) {
			z, w := &zone{}, &watcher{}
			z.set("app.test.", "10.0.0.1")
			inBubble(t, plain(z, w), func(t *testing.T) {
				makeEmpty(z)
				time.Sleep(4 * time.Minute)
				require.Equal(t, 1, w.reports())
				require.Equal(t, 1, w.warnings("the answer is empty"))
				z.set("app.test.", "10.0.0.1")
				time.Sleep(time.Minute)
				require.Equal(t, 1, w.reports(), "it was back in time")
				makeEmpty(z)
				time.Sleep(4 * time.Minute)
				require.Equal(t, 1, w.reports(), "the time begins again")
				time.Sleep(3 * time.Minute) // with two pauses, each up to a tenth longer than 30 s
				require.Equal(t, 2, w.reports())
				ids, _ := w.last()
				require.Empty(t, ids)
				z.set("app.test.", "10.0.0.1")
				time.Sleep(time.Minute)
				ids, _ = w.last()
				require.Equal(t, "10.0.0.1:80", ids)
			})
		})
	}
}

func TestDNS_EmptyAtTheStart(t *testing.T) {
	tests := map[string]struct {
		hold time.Duration
		want int // reports after four minutes
	}{"held": {0, 0}, "not held": {-1, 1}}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			z, w := &zone{}, &watcher{}
			source := plain(z, w)
			source.EmptyHold = tt.hold
			inBubble(t, source, func(t *testing.T) {
				time.Sleep(4 * time.Minute)
				require.Equal(t, tt.want, w.reports())
				time.Sleep(4 * time.Minute)
				require.Equal(t, 1, w.reports())
				ids, _ := w.last()
				require.Empty(t, ids)
			})
		})
	}
}

func TestDNS_Pace(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.answerWith(dnsmessage.RCodeRefused, "A app.test.")
	source := plain(z, w)
	source.Family = discovery.IPv4
	inBubble(t, source, func(t *testing.T) {
		// After 1, 2, 4, 8, 16, 30, 30 seconds and so on, a tenth more or less.
		once := z.count("A app.test.") // net asks several times
		require.Positive(t, once)
		for i, at := range []time.Duration{1, 3, 7, 15, 31, 61, 91, 121} {
			time.Sleep(at*time.Second*9/10 - time.Since(start(t)) - 1)
			require.LessOrEqual(t, z.count("A app.test."), once*(i+1), "at %v", time.Since(start(t)))
			time.Sleep(at*time.Second*11/10 - time.Since(start(t)) + 1)
			require.GreaterOrEqual(t, z.count("A app.test."), once*(i+2), "at %v", time.Since(start(t)))
		}
		z.answerWith(0, "A app.test.")
		z.set("app.test.", "10.0.0.1")
		require.NoError(t, source.Ready(t.Context()))
		before := z.count("A app.test.")
		time.Sleep(time.Hour)
		require.InDelta(t, 120, z.count("A app.test.")-before, 13)
	})
}

// start returns the time at which bubbles begin.
func start(t *testing.T) time.Time {
	t.Helper()
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
}

func TestDNS_RefusedSetsAreOfferedAgain(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.set("app.test.", "10.0.0.1")
	source := plain(z, w)
	inBubble(t, source, func(t *testing.T) {
		require.Equal(t, 1, w.reports())
		w.refuse(errors.New("not now"))
		z.set("app.test.", "10.0.0.1", "10.0.0.2")
		time.Sleep(10 * time.Minute)
		require.Greater(t, w.reports(), 10)
		require.Equal(t, 1, w.warnings("not now"))
		z.answerWith(dnsmessage.RCodeServerFailure, "A app.test.", "AAAA app.test.")
		time.Sleep(time.Minute)
		w.refuse(nil)
		time.Sleep(time.Minute)
		n := w.reports()
		ids, _ := w.last()
		require.Equal(t, "10.0.0.1:80 10.0.0.2:80", ids, "offered although the lookups fail")
		time.Sleep(time.Hour)
		require.Equal(t, n, w.reports())
	})
}

func TestDNS_Ready(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.answerWith(dnsmessage.RCodeServerFailure, "A app.test.", "AAAA app.test.")
	source := plain(z, w)
	synctest.Test(t, func(t *testing.T) {
		ready := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return source.Ready(ctx)
		}
		require.ErrorIs(t, ready(), context.DeadlineExceeded, "before Run")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- source.Run(ctx) }()
		err := ready()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "server misbehaving")
		require.ErrorContains(t, source.Run(ctx), "running already")

		w.refuse(errors.New("not this"))
		z.answerWith(0, "A app.test.", "AAAA app.test.")
		z.set("app.test.", "10.0.0.1")
		require.ErrorContains(t, ready(), "not this")
		w.refuse(nil)
		require.NoError(t, ready())
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, ready(), "for good")

		n := w.reports()
		ctx, cancel = context.WithCancel(t.Context())
		go func() { ended <- source.Run(ctx) }()
		time.Sleep(time.Minute)
		require.Equal(t, n+1, w.reports(), "each run reports its first set")
		cancel()
		require.NoError(t, <-ended)
	})
}

// Run returns at once when ctx ends, also in the middle of a lookup that nobody answers, and the
// bubble shows that nothing is left.
func TestDNS_EndsDuringALookup(t *testing.T) {
	for _, question := range []string{"A app.test.", "SRV app.test."} {
		z, w := &zone{}, &watcher{}
		z.answerWith(silent, question)
		source := plain(z, w)
		if question[0] == 'S' {
			source.Port = 0
		}
		inBubble(t, source, func(t *testing.T) { require.Equal(t, 1, z.count(question)) })
		require.Empty(t, w.text(), "an interrupted lookup has not failed")
	}
}

func TestDNS_Timeout(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.answerWith(silent, "A app.test.")
	source := plain(z, w)
	source.Timeout = 2 * time.Second
	inBubble(t, source, func(t *testing.T) {
		time.Sleep(2*time.Second - time.Nanosecond)
		require.Zero(t, w.warnings(""))
		time.Sleep(2 * time.Nanosecond)
		require.Equal(t, 1, w.warnings("the lookup fails"))
	})
}

func TestDNS_MaxTargets(t *testing.T) {
	z, w := &zone{}, &watcher{}
	source := plain(z, w)
	source.MaxTargets = 20
	z.set("app.test.", addresses(0, 10)...)
	inBubble(t, source, func(t *testing.T) {
		z.set("app.test.", addresses(5, 1000)...)
		time.Sleep(33 * time.Second)
		ids, _ := w.last()
		require.Equal(t, strings.Join(addresses(5, 20), ":80 ")+":80", ids)
		require.Equal(t, 1, w.warnings("MaxTargets is 20"))
		for i := range 3 {
			z.set("app.test.", shuffled(addresses(5, 100), i*37)...)
			time.Sleep(33 * time.Second)
		}
		again, _ := w.last()
		require.Equal(t, ids, again, "the same ones of a set, whatever its order is")
		z.set("app.test.", addresses(5, 3)...)
		time.Sleep(5 * time.Minute)
		ids, _ = w.last()
		require.Equal(t, strings.Join(addresses(5, 3), ":80 ")+":80", ids)
		require.Equal(t, 1, w.warnings(""))
		require.Contains(t, w.text(), "discovery: over: there are more addresses")
	})
}

// Each answer has a few of 10,000 addresses.
func TestDNS_RotationIsBounded(t *testing.T) {
	for _, size := range []int{4, 20} {
		z, w := &zone{}, &watcher{}
		source := plain(z, w)
		source.Interval, source.MaxTargets, source.Family = time.Second, 200, discovery.IPv4
		z.set("app.test.", addresses(0, 10_000)...)
		z.limit(size)
		inBubble(t, source, func(t *testing.T) {
			time.Sleep(time.Minute)
			w.mu.Lock()
			sets := slices.Clone(w.sets)
			w.mu.Unlock()
			for _, set := range sets {
				require.LessOrEqual(t, len(strings.Fields(set)), min(200, size*35))
			}
			ids, _ := w.last()
			require.Greater(t, len(strings.Fields(ids)), min(199, size*27), "they are held")
			require.Equal(t, size*31 > 200, w.warnings("MaxTargets") > 0)
		})
	}
}

func TestDNS_ServiceChanges(t *testing.T) {
	z, w := &zone{}, &watcher{}
	const name = "_http._tcp.app.test."
	source := plain(z, w)
	source.Name, source.Port = name, 0
	z.set(name, "SRV 1 10 80 a.test.", "SRV 1 10 80 b.test.")
	z.set("a.test.", "10.0.0.1")
	z.set("b.test.", "10.0.0.2")
	inBubble(t, source, func(t *testing.T) {
		next := func(why, want string) {
			t.Helper()
			time.Sleep(33 * time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			short := strings.NewReplacer(":80=http://app.test", "", ";addr=10.0.0.1:80", "", ";addr=10.0.0.2:80", "",
				";label.host=a.test", "", ";label.host=b.test", "")
			require.Equal(t, want, short.Replace(w.sets[len(w.sets)-1]), why)
		}
		next("at first", "10.0.0.1;weight=10 10.0.0.2;weight=10")
		z.set(name, "SRV 1 10 80 a.test.", "SRV 1 30 80 b.test.")
		next("another weight", "10.0.0.1;weight=10 10.0.0.2;weight=30")
		z.set(name, "SRV 1 10 80 a.test.", "SRV 2 30 80 b.test.")
		next("another priority", "10.0.0.1;weight=10 10.0.0.2;weight=30;backup")
		z.answerWith(dnsmessage.RCodeServerFailure, "A a.test.")
		for range 10 {
			next("a name fails", "10.0.0.1;weight=10 10.0.0.2;weight=30;backup")
		}
		z.set(name, "SRV 1 20 80 a.test.", "SRV 1 30 80 b.test.")
		next("the record counts, although its name fails", "10.0.0.1;weight=20 10.0.0.2;weight=30")
		z.set(name, "SRV 1 30 80 b.test.")
		time.Sleep(5 * time.Minute)
		next("a record that is gone does not wait for its name", "10.0.0.2;weight=30")
		z.answerWith(dnsmessage.RCodeServerFailure, "SRV "+name)
		time.Sleep(time.Hour)
		next("the service fails", "10.0.0.2;weight=30")
		z.answerWith(0, "SRV "+name)
		z.set(name, "SRV 0 0 0 .")
		next("RFC 2782: not available, which is an empty answer", "10.0.0.2;weight=30")
		time.Sleep(6 * time.Minute)
		next("for longer than EmptyHold", "")
	})
	require.Equal(t, 1, w.warnings("a part of the lookup fails"))
	require.Equal(t, 1, w.warnings("discovery: the lookup fails"))
}

// A record has a new priority, and at that moment an address of its name is missing. The old
// priority of that address must not make all others backups.
func TestDNS_RecordsOfAbsentAddressesChange(t *testing.T) {
	z, w := &zone{}, &watcher{}
	const name = "_http._tcp.app.test."
	source := plain(z, w)
	source.Name, source.Port = name, 0
	z.set(name, "SRV 10 2 80 a.test.")
	z.set("a.test.", "10.0.0.1", "10.0.0.2")
	inBubble(t, source, func(t *testing.T) {
		z.set(name, "SRV 20 3 80 a.test.")
		z.set("a.test.", "10.0.0.1")
		time.Sleep(33 * time.Second)
		synctest.Wait()
		require.Len(t, w.sets, 2)
		require.Equal(t, "10.0.0.1:80=http://app.test;addr=10.0.0.1:80;weight=3;label.host=a.test "+
			"10.0.0.2:80=http://app.test;addr=10.0.0.2:80;weight=3;label.host=a.test", w.sets[1])
	})
}

// Servers may spell a name in any case, and in another one each time.
func TestDNS_CaseOfNamesDoesNotMatter(t *testing.T) {
	z, w := &zone{}, &watcher{}
	const name = "_http._tcp.app.test."
	source := plain(z, w)
	source.Name, source.Port, source.Interval = name, 0, time.Second
	z.set(name, "SRV 1 1 80 a.test.", "SRV 1 1 80 A.test.")
	z.set("a.test.", "10.0.0.1")
	inBubble(t, source, func(t *testing.T) {
		z.set(name, "SRV 1 1 80 A.tesT.")
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.reports())
		z.answerWith(dnsmessage.RCodeServerFailure, "A a.test.")
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.reports())
	})
	require.Zero(t, z.count("A A.test.")+z.count("A A.tesT."))
}

// The longest times mean never, and do not overflow.
func TestDNS_LongestTimes(t *testing.T) {
	for range 20 { // the interval varies
		z, w := &zone{}, &watcher{}
		z.set("app.test.", "10.0.0.1")
		source := plain(z, w)
		source.Interval, source.Timeout = math.MaxInt64, math.MaxInt64
		source.Hold, source.EmptyHold = math.MaxInt64, math.MaxInt64
		inBubble(t, source, func(t *testing.T) {
			z.remove("app.test.")
			time.Sleep(time.Hour)
			require.Equal(t, 1, z.count("A app.test."))
			require.Equal(t, 1, w.reports())
		})
	}
}

func TestDNS_WithARealServer(t *testing.T) {
	t.Parallel()
	z := &zone{}
	z.set("few.test.", "10.0.0.1", "2001:db8::1")
	z.set("many.test.", addresses(0, 200)...)
	z.set("alias.test.", "CNAME many.test.")
	z.set("lost.test.", "10.0.0.1")
	z.answerWith(silent, "A lost.test.", "AAAA lost.test.")
	z.answerWith(dnsmessage.RCodeServerFailure, "A broken.test.", "AAAA broken.test.")
	var services []string
	for i := range 100 {
		name := fmt.Sprintf("host-%d.test.", i)
		services = append(services, fmt.Sprintf("SRV 1 1 %d %s", 1000+i, name))
		z.set(name, addresses(i, 1)...)
	}
	z.set("_many._tcp.test.", services...)
	resolver := z.server(t)
	tests := map[string]struct {
		name    string
		port    uint16
		want    int    // targets
		failure string // or what Ready's error has
	}{
		"few":                   {"few.test", 80, 2, ""},
		"truncated over UDP":    {"many.test", 80, 200, ""},
		"an alias":              {"alias.test", 80, 200, ""},
		"truncated services":    {"_many._tcp.test", 0, 100, ""},
		"nobody answers":        {"lost.test", 80, 0, "i/o timeout"},
		"the server has failed": {"broken.test", 80, 0, "server misbehaving"},
		"no such name":          {"unknown.test", 80, 0, "no usable address"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &watcher{}
			source := &discovery.DNS{
				Name: tt.name, Port: tt.port, Resolver: resolver, Report: w.report, Logger: w.logger(),
			}
			if tt.name == "lost.test" {
				source.Timeout = 100 * time.Millisecond
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- source.Run(ctx) }()
			if tt.failure == "" {
				require.NoError(t, source.Ready(t.Context()))
				ids, _ := w.last()
				require.Len(t, strings.Fields(ids), tt.want)
			} else {
				require.ErrorContains(t, failure(t, source), tt.failure)
				require.Zero(t, w.reports())
			}
			cancel()
			require.NoError(t, <-ended)
		})
	}
	t.Cleanup(func() { require.Positive(t, z.overTCP) })
}

// failure waits until Ready can name a failure, and returns its error.
func failure(t *testing.T, source runner) error {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		err := source.Ready(ctx)
		cancel()
		if err == nil || !strings.HasSuffix(err.Error(), context.DeadlineExceeded.Error()) {
			return err
		}
	}
}

func TestDNS_DefaultResolver(t *testing.T) {
	z, w := &zone{}, &watcher{}
	z.set("app.test.", "10.0.0.1")
	before := net.DefaultResolver
	defer func() { net.DefaultResolver = before }()
	net.DefaultResolver = z.resolver()
	source := plain(z, w)
	source.Resolver = nil
	inBubble(t, source, func(t *testing.T) { require.Equal(t, 1, w.reports()) })
}
