package cookie_test

import (
	"strings"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func TestSetCookieCheck_C4(t *testing.T) {
	tests := map[string]struct {
		line string
		rule string // what the error says; empty: none
	}{
		"plain":                         {"a=b", ""},
		"full":                          {"a=b; Path=/x; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=9", ""},
		"Secure":                        {"__Secure-a=b; Secure; Domain=example.com; Path=/x", ""},
		"Secure without":                {"__Secure-a=b", "__Secure- needs Secure"},
		"Secure and no more":            {"__Secure-=b", "__Secure- needs Secure"},
		"Secure in other case":          {"__sEcUrE-a=b", "__Secure- needs Secure"},
		"Host":                          {"__Host-a=b; Secure; Path=/", ""},
		"Host, last path rules":         {"__Host-a=b; Secure; Path=/x; path=/", ""},
		"Host, last path rules, broken": {"__Host-a=b; Secure; Path=/; path=/x", "__Host- needs Path=/"},
		"Host with an empty Domain":     {"__Host-a=b; Secure; Path=/; Domain=", ""},
		"Host without Secure":           {"__Host-a=b; Path=/", "__Host- needs Secure"},
		"Host without Path":             {"__Host-a=b; Secure", "__Host- needs Path=/"},
		"Host with a path":              {"__host-a=b; Secure; Path=/x", "__Host- needs Path=/"},
		"Host with Domain":              {"__Host-a=b; Secure; Path=/; Domain=example.com", "__Host- excludes Domain"},
		"Http":                          {"__Http-a=b; Secure; HttpOnly; Domain=example.com", ""},
		"Http without Secure":           {"__Http-a=b; HttpOnly", "__Http- needs Secure"},
		"Http without HttpOnly":         {"__Http-a=b; Secure", "__Http- needs HttpOnly"},
		"Host-Http":                     {"__Host-Http-a=b; Secure; HttpOnly; Path=/", ""},
		"Host-Http without HttpOnly":    {"__Host-Http-a=b; Secure; Path=/", "__Host-Http- needs HttpOnly"},
		"Host-Http without Path":        {"__Host-Http-a=b; Secure; HttpOnly", "__Host-Http- needs Path=/"},
		"Host-Http with Domain":         {"__Host-Http-a=b; Secure; HttpOnly; Path=/; Domain=e", "__Host-Http- excludes Domain"},
		"Host-Http without Secure":      {"__Host-Http-a=b; HttpOnly; Path=/", "__Host-Http- needs Secure"},
		"no prefix":                     {"_Host-a=b; x__Host-=1", ""},
		"prefix in the value":           {"a=__Host-b", ""},
		"nameless with prefix":          {"=__host-a; Secure; Path=/", "without a name"},
		"nameless":                      {"=b", ""},
		"None without Secure":           {"a=b; SameSite=none", "SameSite=None needs Secure"},
		"last SameSite rules":           {"a=b; SameSite=None; SameSite=Lax", ""},
		"Lax":                           {"a=b; SameSite=Lax", ""},
		"Partitioned without Secure":    {"a=b; Partitioned", "Partitioned needs Secure"},
		"Domain":                        {"a=b; Domain=bücher.example", "Domain is not ASCII"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := cookie.ParseSetCookie(tt.line)
			require.NoError(t, err)
			if err = c.Check(); tt.rule == "" {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, cookie.ErrRefused)
				require.ErrorContains(t, err, tt.rule)
			}
		})
	}
}

func TestSetCookieCheck_SizesAndForm(t *testing.T) {
	long := strings.Repeat("x", 1025)
	tests := map[string]struct {
		c    cookie.SetCookie
		want error
	}{
		"nothing":                {cookie.SetCookie{}, cookie.ErrMalformed},
		"injection":              {cookie.SetCookie{Name: "a", Value: "b; Secure"}, cookie.ErrMalformed},
		"largest":                {cookie.SetCookie{Name: "ab", Value: strings.Repeat("x", 4094)}, nil},
		"too large":              {cookie.SetCookie{Name: "ab", Value: strings.Repeat("x", 4095)}, cookie.ErrTooLong},
		"largest attribute":      {cookie.SetCookie{Name: "a", Attributes: attrs{{Name: "Path", Value: long[1:]}}}, nil},
		"too large attribute":    {cookie.SetCookie{Name: "a", Attributes: attrs{{Name: "Path", Value: long}}}, cookie.ErrTooLong},
		"unused value of a bare": {cookie.SetCookie{Name: "a", Attributes: attrs{{Name: "Secure", Value: long, Bare: true}}}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, tt.c.Check(), tt.want)
			if err := tt.c.Check(); err != nil && tt.c.Value != "" {
				require.NotContains(t, err.Error(), tt.c.Value)
			}
		})
	}
}
