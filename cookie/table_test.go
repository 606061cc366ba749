package cookie_test

import (
	"crypto"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func TestInsecureTable_C8(t *testing.T) {
	var c cookie.InsecureTable
	_, err := c.Encode(&cookie.Ticket{Target: "app-1"})
	require.ErrorIs(t, err, cookie.ErrUnknownTarget, "the zero value is empty")
	_, err = c.Decode("s1")
	require.ErrorIs(t, err, cookie.ErrUnknownTarget)

	values := map[string]string{"app-1": "s1", "app-2": "127.0.0.1:9000"}
	require.NoError(t, c.Store(values))
	values["app-1"], values["app-3"] = "changed", "s3" // Store has copied it
	for id, want := range map[string]string{"app-1": "s1", "app-2": "127.0.0.1:9000"} {
		value, err := c.Encode(&cookie.Ticket{Target: id})
		require.NoError(t, err)
		require.Equal(t, want, value)
		ticket, err := c.Decode(value)
		require.NoError(t, err)
		require.Equal(t, cookie.Ticket{Target: id}, ticket)
	}
	for _, value := range []string{"", "S1", "s1 ", `"s1"`, "s1\n", "app-1", "s3", strings.Repeat("x", 1<<20)} {
		_, err := c.Decode(value)
		require.ErrorIs(t, err, cookie.ErrUnknownTarget, "%.20q", value)
	}
	_, err = c.Encode(&cookie.Ticket{Target: "app-3"})
	require.ErrorIs(t, err, cookie.ErrUnknownTarget)

	require.NoError(t, c.Store(map[string]string{"app-3": "s1"}))
	ticket, err := c.Decode("s1")
	require.NoError(t, err)
	require.Equal(t, "app-3", ticket.Target)
	_, err = c.Encode(&cookie.Ticket{Target: "app-1"})
	require.ErrorIs(t, err, cookie.ErrUnknownTarget, "the table is replaced, not added to")
	longest := strings.Repeat("x", 4096)
	require.NoError(t, c.Store(map[string]string{"app-1": longest}))
	ticket, err = c.Decode(longest)
	require.NoError(t, err)
	require.Equal(t, "app-1", ticket.Target)
	require.NoError(t, c.Store(nil))
	_, err = c.Decode("s1")
	require.ErrorIs(t, err, cookie.ErrUnknownTarget)
}

func TestInsecureTable_StoreRefuses(t *testing.T) {
	for name, values := range map[string]map[string]string{
		"empty ID":           {"": "s1"},
		"empty value":        {"app-1": ""},
		"semicolon":          {"app-1": "s;1"},
		"line break":         {"app-1": "s\n1"},
		"space around":       {"app-1": "s1 "},
		"quotes around":      {"app-1": `"s1"`},
		"too long":           {"app-1": strings.Repeat("x", 4097)},
		"one value for two":  {"app-1": "s1", "app-2": "s1"},
		"good ones and one ": {"app-1": "s1", "app-2": "s2", "app-3": "\x7f"},
	} {
		t.Run(name, func(t *testing.T) {
			var c cookie.InsecureTable
			require.NoError(t, c.Store(map[string]string{"before": "b"}))
			err := c.Store(values)
			require.Error(t, err)
			if len(values) == 2 {
				require.EqualError(t, err, `cookie: targets "app-1" and "app-2" have the same value`)
			}
			ticket, err := c.Decode("b")
			require.NoError(t, err, "the table stays")
			require.Equal(t, "before", ticket.Target)
			_, err = c.Decode("s1")
			require.ErrorIs(t, err, cookie.ErrUnknownTarget)
		})
	}
}

// Readers see one table or the other, never a mixture of both.
func TestInsecureTable_SwapsAtomically(t *testing.T) {
	var c cookie.InsecureTable
	tables := [2]map[string]string{{}, {}}
	for i := range 50 {
		tables[0][fmt.Sprint("app-", i)] = fmt.Sprint("s", i)
		tables[1][fmt.Sprint("app-", i)] = fmt.Sprint("s", (i+1)%50)
	}
	require.NoError(t, c.Store(tables[0]))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				value, err := c.Encode(&cookie.Ticket{Target: "app-49"})
				if err != nil || value != "s49" && value != "s0" {
					t.Errorf("%q, %v", value, err)
				}
				ticket, err := c.Decode("s7")
				if err != nil || ticket.Target != "app-7" && ticket.Target != "app-6" {
					t.Errorf("%v, %v", ticket, err)
				}
			}
		})
	}
	for i := range 500 {
		require.NoError(t, c.Store(tables[i%2]))
	}
	wg.Wait()
}

func TestInsecureTable_AllocatesNothing(t *testing.T) {
	var c cookie.InsecureTable
	value := strings.Repeat("s1", 30)
	require.NoError(t, c.Store(map[string]string{"app-1": value}))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		ticket, _ := c.Decode(value)
		if _, err := c.Encode(&ticket); err != nil {
			t.Error(err)
		}
	}))
}

// A value that a table decodes is encoded to the same octets.
func FuzzTableDecode(f *testing.F) {
	var plain cookie.InsecureTable
	require.NoError(f, plain.Store(map[string]string{"app-1": "s1", "app-2": "127.0.0.1:9000"}))
	nginx, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: crypto.MD5, Key: "secret"})
	require.NoError(f, err)
	require.NoError(f, nginx.Store(map[string]string{"app-1": "127.0.0.1:9000"}))
	for _, v := range []string{"s1", "127.0.0.1:9000", "8c0ab9326f337bc7fe923c9b9cd5ddf7", "8C0AB9326F337BC7FE923C9B9CD5DDF7", "s1 ", ""} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, c := range []cookie.Codec{&plain, nginx} {
			ticket, err := c.Decode(value)
			if err != nil {
				require.ErrorIs(t, err, cookie.ErrUnknownTarget)
				require.Zero(t, ticket)
				continue
			}
			require.Equal(t, value, encode(t, c, ticket))
		}
	})
}

func BenchmarkInsecureTableDecode(b *testing.B) {
	for _, n := range []int{1, 16, 1024} {
		var c cookie.InsecureTable
		values := map[string]string{}
		for i := range n {
			id := fmt.Sprint("app-", i)
			values[id] = cookie.InsecureNginxMD5(id)
		}
		require.NoError(b, c.Store(values))
		for name, value := range map[string]string{"known": values["app-0"], "hostile": strings.Repeat("x", 4096)} {
			b.Run(fmt.Sprintf("targets=%d/value=%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _ = c.Decode(value)
				}
			})
		}
	}
}
