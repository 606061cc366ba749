package main

import (
	"fmt"
	"net/http/httptest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// Targets, policy and keys change while a proxy serves.
func Example_change() {
	targets, err := balancer.ParseTargets("app-1=http://10.0.0.1:3000")
	pool, _ := balancer.New(balancer.Config{Targets: targets})
	registry := &health.Registry{Pool: pool}
	oldKey, newKey := cookie.NewKey(), cookie.NewKey()
	codec, _ := cookie.NewSealed(cookie.SealedOptions{Keys: [][]byte{oldKey}})
	former, _ := stickiness.NewLBCookie(stickiness.LBCookieOptions{Codec: codec})
	var policy stickiness.Switch
	policy.Store(former)
	front := httptest.NewServer(&wsproxy.Proxy{Pool: pool, Policy: &policy})
	defer front.Close()

	next, _ := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "JSESSIONID", Name: "AWSELB-APP", Codec: codec})
	policy.Store(stickiness.First(next, stickiness.ReadOnly(former))) // policy is a stickiness.Switch
	err = codec.Store(newKey, oldKey)                                 // codec is a *cookie.Sealed
	fmt.Println(err)
	targets, err = balancer.ParseTargets("app-1=http://10.0.0.1:3000 app-2=http://10.0.0.2:3000;weight=2")
	fmt.Println(err)
	err = registry.Replace(targets, health.Drain{Grace: time.Minute}) // what is new serves, what is missing drains
	fmt.Println(err)
	for _, m := range pool.Members() {
		fmt.Println(m.Target())
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// app-1=http://10.0.0.1:3000
	// app-2=http://10.0.0.2:3000;weight=2
}
