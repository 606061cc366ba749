package peertest_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
)

// date writes a time, in Unix seconds, as HAProxy's cookies have it: units of four seconds, rounded up.
func date(unix int64) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32((unix+3)/4*4))
	return base64.StdEncoding.EncodeToString(b[:])[:5]
}

// normal writes the attribute as we do: letter case means nothing there.
func normal(lines []string) []string {
	all := slices.Clone(lines)
	for i, line := range all {
		all[i] = strings.Replace(line, "; path=/", "; Path=/", 1)
	}
	return all
}

// cutLast takes the last date out of a line with two.
func cutLast(t *testing.T, line string) (last, rest string) {
	t.Helper()
	parts := strings.Split(line, "|")
	require.Len(t, parts, 3, line)
	return parts[1], normal([]string{parts[0] + "|" + parts[2]})[0]
}

// A minted cookie has dates that are so many seconds from the present.
type minted struct {
	dates []int64
}

func (m minted) at(now int64, value string) string {
	for _, d := range m.dates {
		value += "|" + date(now+d)
	}
	return value
}

// mint returns cookies with dates around every edge that a limit makes.
func mint() []minted {
	const idle, life, day = 30 * 60, 8 * 3600, 86400
	around := func(edges ...int64) []int64 {
		var all []int64
		for _, edge := range edges {
			for d := int64(-8); d <= 8; d += 4 { // the dates are multiples of four, the present is not
				all = append(all, edge+d)
			}
		}
		return all
	}
	all := []minted{{}}
	for _, last := range around(0, -100, -idle, -life, day) {
		all = append(all, minted{[]int64{last}}, minted{[]int64{last, -100}})
	}
	for _, first := range around(0, -idle, -life, day) {
		all = append(all, minted{[]int64{0, first}}, minted{[]int64{-100, first}})
	}
	return append(all, minted{[]int64{-idle - 100, -life - 100}}, minted{[]int64{day + 100, day + 100}})
}

// TestHAProxyInsert_Dates shows both balancers cookies with chosen dates within the same second, once in each of the
// seconds of a unit. They must do the same: believe it or not, write a new one or not, and with the same dates.
func TestHAProxyInsert_Dates(t *testing.T) {
	const idle, life = 30 * time.Minute, 8 * time.Hour
	type setup = func(*testing.T, time.Duration, time.Duration, []server) (string, stickiness.Policy)
	for name, tt := range map[string]struct {
		setup      setup
		idle, life time.Duration
	}{
		"maxidle and maxlife": {insert, idle, life},
		"maxidle":             {insert, idle, 0},
		"maxlife":             {insert, 0, life},
		"no limits":           {insert, 0, 0},
		"dynamic":             {dynamic, idle, life},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := activeAndSpare(t)
			options, policy := tt.setup(t, tt.idle, tt.life, all)
			p := newPair(t, options, policy, all)
			outcomes := p.compareDates(t, all[1].value)
			require.Contains(t, outcomes, "spare, 0 cookies", "left alone")
			require.Contains(t, outcomes, "spare, 1 cookies", "refreshed")
			require.Equal(t, tt.idle+tt.life > 0, outcomes["active, 1 cookies"] > 0, "over")
		})
	}
}

// compareDates shows all the minted cookies, in each second of a unit, and returns how often what came of it.
func (p pair) compareDates(t *testing.T, value string) map[string]int {
	t.Helper()
	var pending [4][]minted
	for i := range pending {
		pending[i] = mint()
	}
	outcomes := make(map[string]int)
	for until := time.Now().Add(patience); len(slices.Concat(pending[:]...)) > 0; {
		require.True(t, time.Now().Before(until), "too slow to ask twice within a second")
		now := time.Now().Unix()
		due := &pending[now%4]
		if len(*due) == 0 {
			<-time.After(time.Until(time.Unix(now+1, 0)))
			continue
		}
		line := "SRV=" + (*due)[0].at(now, value)
		h, s := ask(t, p.haproxy, "/", line), ask(t, p.stickylb, "/", line)
		if time.Now().Unix() != now {
			continue // they may have seen different seconds
		}
		what := fmt.Sprintf("%s, %v from now, in second %d of a unit", line, (*due)[0], now%4)
		require.Equal(t, h.seen, s.seen, what)
		require.Equal(t, normal(h.SetCookie), normal(s.SetCookie), what)
		outcomes[fmt.Sprintf("%s, %d cookies", h.ID, len(h.SetCookie))]++
		*due = (*due)[1:]
	}
	return outcomes
}
