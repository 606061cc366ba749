package cookie_test

import (
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

func Example() {
	keys := [][]byte{cookie.NewKey()} // the same on all instances
	codec, err := cookie.NewSealed(cookie.SealedOptions{Scope: "shop", Keys: keys})
	if err != nil {
		fmt.Println(err)
		return
	}
	value, err := codec.Encode(&cookie.Ticket{Target: "app-1", Issued: time.Now()})
	if err != nil {
		fmt.Println(err)
		return
	}
	ticket, err := codec.Decode(value)
	fmt.Println(ticket.Target, err)
	// Output: app-1 <nil>
}

func ExampleParseSetCookie() {
	c, err := cookie.ParseSetCookie(`SID="a b,c"; path=/my_app; HttpOnly; SameSite=Lax; Comment=x`)
	if err != nil {
		fmt.Println(err)
		return
	}
	path, _ := c.Attribute("Path")
	fmt.Println(c.Name, c.Value, path)
	fmt.Println(c)
	// Output:
	// SID "a b,c" /my_app
	// SID="a b,c"; path=/my_app; HttpOnly; SameSite=Lax; Comment=x
}

func ExampleSetCookie_Expiry() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, line := range []string{
		"SID=1",
		"SID=1; Expires=Sun, 01-Mar-26 18:00:00 GMT",
		"SID=1; Expires=Sun, 01-Mar-26 18:00:00 GMT; Max-Age=60",
		"SID=; Max-Age=0",
	} {
		c, _ := cookie.ParseSetCookie(line)
		switch at, session := c.Expiry(now); {
		case session:
			fmt.Println("with the browser's session")
		case !at.After(now):
			fmt.Println("deleted")
		default:
			fmt.Println(at.Format(time.TimeOnly))
		}
	}
	// Output:
	// with the browser's session
	// 18:00:00
	// 12:01:00
	// deleted
}

func ExampleSetCookie_Check() {
	c := cookie.SetCookie{Name: "__Host-lb", Value: "x", Attributes: []cookie.Attribute{{Name: "Path", Value: "/"}}}
	fmt.Println(c.Check())
	c.Attributes = append(c.Attributes, cookie.Attribute{Name: "Secure", Bare: true})
	fmt.Println(c.Check())
	// Output:
	// cookie: browsers refuse it: a name with __Host- needs Secure
	// <nil>
}

func ExampleParseDate() {
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "6-nov-94 8:49:37", "tomorrow"} {
		t, err := cookie.ParseDate(s)
		fmt.Println(t.Format(http.TimeFormat), err)
	}
	// Output:
	// Sun, 06 Nov 1994 08:49:37 GMT <nil>
	// Sun, 06 Nov 1994 08:49:37 GMT <nil>
	// Mon, 01 Jan 0001 00:00:00 GMT cookie: malformed
}

func ExampleEncodePath() {
	fmt.Println(cookie.EncodePath("/my_path"))
	// Output: /my%5Fpath
}

func ExampleValues() {
	h := http.Header{"Cookie": {"AWSELB=1; theme=dark", "AWSELB=2"}} // HTTP/2 may split them
	for value := range cookie.Values(h, "AWSELB") {
		fmt.Println(value)
	}
	// Output:
	// 1
	// 2
}

func ExampleRemove() {
	h := http.Header{"Cookie": {`AWSELB=1; theme="dark";  a=b`, "AWSELBCORS=1"}}
	cookie.Remove(h, "AWSELB", "AWSELBCORS")
	fmt.Printf("%q\n", h["Cookie"])
	// Output: ["theme=\"dark\";  a=b"]
}

// A rotation: all instances get the new key in second place first, then in front.
func ExampleNewSealed() {
	oldKey, newKey := cookie.NewKey(), cookie.NewKey()
	before, _ := cookie.NewSealed(cookie.SealedOptions{Scope: "shop", Keys: [][]byte{oldKey, newKey}})
	after, _ := cookie.NewSealed(cookie.SealedOptions{Scope: "shop", Keys: [][]byte{newKey, oldKey}})

	value, err := before.Encode(&cookie.Ticket{Target: "app-1", Issued: time.Now().Add(-time.Hour)})
	fmt.Println(len(value), err)
	ticket, err := after.Decode(value)
	fmt.Println(ticket.Target, ticket.OldKey, err)
	_, err = after.Decode(value[:len(value)-1] + "!")
	fmt.Println(errors.Is(err, cookie.ErrMalformed))
	// Output:
	// 71 <nil>
	// app-1 true <nil>
	// true
}

// Sessions that nginx-sticky-module-ng began with "sticky hash=md5".
func ExampleInsecureTable() {
	var table cookie.InsecureTable
	err := table.Store(map[string]string{ // beside Pool.Update
		"app-1": cookie.InsecureNginxMD5("127.0.0.1:9000"),
		"app-2": cookie.InsecureNginxMD5("127.0.0.1:9001"),
	})
	fmt.Println(err)
	ticket, err := table.Decode("44fb3a27ed30ae5193ebd879ca2cf039")
	fmt.Println(ticket.Target, err)
	// Output:
	// <nil>
	// app-1 <nil>
}

// Sessions that nginx-sticky-module began with "sticky hmac=sha1 hmac_key=secret".
func ExampleNginxHMAC() {
	codec, _ := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: crypto.SHA1, Key: "secret"})
	err := codec.Store(map[string]string{
		"app-1": cookie.NginxSockaddr(netip.MustParseAddrPort("127.0.0.1:9000")),
	})
	fmt.Println(err)
	ticket, err := codec.Decode("f1825685448d82ea292d35ad8e3c6bada3a64d39")
	fmt.Println(ticket.Target, err)
	// Output:
	// <nil>
	// app-1 <nil>
}

// Sessions of "cookie SRV insert indirect nocache maxlife 8h" and "server s1 ... cookie s1".
func ExampleInsecureHAProxy() {
	codec := &cookie.InsecureHAProxy{MaxLife: 8 * time.Hour}
	fmt.Println(codec.Store(map[string]string{"app-1": "s1"}))
	_, err := codec.Decode("s1|ZVPxA|ZVPxA") // of November 2023
	fmt.Println(err)
	// Output:
	// <nil>
	// cookie: expired
}

// Sessions of "cookie SRV insert indirect nocache dynamic" and "dynamic-cookie-key MYKEY".
func ExampleInsecureHAProxyDynamic() {
	fmt.Println(cookie.InsecureHAProxyDynamic("MYKEY", netip.MustParseAddrPort("127.0.0.1:9000")))
	// Output: ff57a519390d4984
}

func ExampleStripHAProxyPrefix() {
	h := http.Header{"Cookie": {"JSESSIONID=s1~ABC123; theme=dark"}}
	for value := range cookie.Values(h, "JSESSIONID") {
		server, _ := cookie.CutHAProxyPrefix(value)
		fmt.Println(server)
	}
	cookie.StripHAProxyPrefix(h, "JSESSIONID")
	fmt.Println(h.Get("Cookie"))
	// Output:
	// s1
	// JSESSIONID=ABC123; theme=dark
}

func ExamplePathParam() {
	id, _ := cookie.PathParam("/shop/cart;jsessionid=0123ABCD.jvm1", "jsessionid")
	_, route, ok := cookie.CutRoute(id)
	fmt.Println(route, ok)
	// Output: jvm1 true
}
