package stickiness_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// An interface that holds a nil pointer is not nil. Every constructor refuses it, so that no
// request meets it.
func TestNew_RefusesNilPointers(t *testing.T) {
	var codec cookie.Codec = (*cookie.Sealed)(nil)
	from := []stickiness.Source{stickiness.FromHeader("A")}
	tests := map[string]struct {
		build func() error
		say   string
	}{
		"LBCookie": {func() error {
			_, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Codec: codec})
			return err
		}, "stickiness: LBCookie: the Codec is a nil *cookie.Sealed"},
		"LBCookie Former": {func() error {
			_, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Former: []cookie.Codec{codec}})
			return err
		}, "stickiness: LBCookie: nil codec in Former"},
		"AppCookie": {func() error {
			_, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "app", Codec: codec})
			return err
		}, "stickiness: AppCookie: the Codec is a nil *cookie.Sealed"},
		"AppCookie Former": {func() error {
			_, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "app", Former: []cookie.Codec{codec}})
			return err
		}, "stickiness: AppCookie: nil codec in Former"},
		"PrefixCookie": {func() error {
			_, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "app", Codec: codec})
			return err
		}, "stickiness: PrefixCookie: the Codec is a nil *cookie.Sealed"},
		"RewriteCookie": {func() error {
			_, err := stickiness.NewRewriteCookie(stickiness.RewriteCookieOptions{Cookie: "app", Codec: codec})
			return err
		}, "stickiness: RewriteCookie: the Codec is a nil *cookie.Sealed"},
		"Route": {func() error {
			_, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "app", Codec: codec})
			return err
		}, "stickiness: Route: the Codec is a nil *cookie.Sealed"},
		"Named": {func() error {
			_, err := stickiness.NewNamed(stickiness.NamedOptions{From: from, Codec: codec})
			return err
		}, "stickiness: Named: the Codec is a nil *cookie.Sealed"},
		"Learn": {func() error {
			_, err := stickiness.NewLearn(stickiness.LearnOptions{Store: (*stickiness.MemoryStore)(nil), Cookie: "app"})
			return err
		}, "stickiness: Learn: the Store is a nil *stickiness.MemoryStore"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.EqualError(t, tt.build(), tt.say) })
	}
}
