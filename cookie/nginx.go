package cookie

import (
	"crypto"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// InsecureNginxIndex returns the table of "hash=index": the value of a target is its
// place in the upstream block, from 0. It is insecure because anyone can guess it, and
// means another target as soon as the order changes.
func InsecureNginxIndex(ids ...string) map[string]string {
	idToValue := make(map[string]string, len(ids))
	for i, id := range ids {
		idToValue[id] = strconv.Itoa(i)
	}
	return idToValue
}

// InsecureNginxMD5 returns the value of "hash=md5" and of nginx's own "sticky cookie". It
// is insecure because no key goes into it: there are few enough addresses and names to
// try them all. For that reason GODEBUG=fips140=only does not forbid it.
func InsecureNginxMD5(input string) string {
	var sum [md5.Size]byte
	fips140.WithoutEnforcement(func() { sum = md5.Sum([]byte(input)) })
	return hex.EncodeToString(sum[:])
}

// InsecureNginxSHA1 returns the value of "hash=sha1". It is insecure as
// [InsecureNginxMD5] is.
func InsecureNginxSHA1(input string) string {
	var sum [sha1.Size]byte
	fips140.WithoutEnforcement(func() { sum = sha1.Sum([]byte(input)) })
	return hex.EncodeToString(sum[:])
}

// NginxSockaddr returns what nginx-sticky-module digests: the socket address of a server
// as Linux has it on little-endian machines such as amd64 and arm64. Zones are not part
// of it. It is empty for the zero AddrPort.
func NginxSockaddr(addr netip.AddrPort) string {
	const inet, inet6 = 2, 10 // AF_INET, AF_INET6
	ip := addr.Addr()
	var b []byte
	switch {
	case ip.Is4():
		b = binary.LittleEndian.AppendUint16(b, inet)
		b = binary.BigEndian.AppendUint16(b, addr.Port())
		b = append(b, ip.AsSlice()...)
		b = append(b, make([]byte, 8)...) // sin_zero
	case ip.Is6():
		b = binary.LittleEndian.AppendUint16(b, inet6)
		b = binary.BigEndian.AppendUint16(b, addr.Port())
		b = append(b, make([]byte, 4)...) // sin6_flowinfo
		b = append(b, ip.AsSlice()...)
		b = append(b, make([]byte, 4)...) // sin6_scope_id
	}
	return string(b)
}

// NginxHMAC is the [Codec] of nginx's "hmac=md5 hmac_key=K" and "hmac=sha1". A client
// cannot make the value of a target that it was not given. It can pass its value on and
// use it for ever, though, which [Sealed] allows to prevent.
//
// It is safe for concurrent use.
type NginxHMAC struct {
	table
	hash crypto.Hash
	key  []byte
}

// NginxHMACOptions configure an [NginxHMAC]. Both fields are needed.
type NginxHMACOptions struct {
	Hash crypto.Hash // [crypto.MD5] or [crypto.SHA1], as in hmac=md5 and hmac=sha1
	Key  string      // as in hmac_key=K
}

// NewNginxHMAC returns an empty table with these options. It refuses other hashes, an empty key, and
// everything under GODEBUG=fips140=only: there the values of nginx's hmac cannot be read, and
// sessions that have them begin anew.
func NewNginxHMAC(o NginxHMACOptions) (*NginxHMAC, error) {
	if o.Hash != crypto.MD5 && o.Hash != crypto.SHA1 {
		return nil, fmt.Errorf("cookie: nginx has no hmac=%v", o.Hash)
	}
	if o.Key == "" {
		return nil, errors.New("cookie: empty hmac_key")
	}
	if fips140.Enforced() {
		return nil, fmt.Errorf("cookie: FIPS 140-only mode has no hmac=%v", o.Hash)
	}
	return &NginxHMAC{hash: o.Hash, key: []byte(o.Key)}, nil
}

// Store replaces the table. idToInput has what is digested for each target: the text of
// its server directive, or [NginxSockaddr]. When to call it and what it refuses is said
// at [InsecureTable].
func (c *NginxHMAC) Store(idToInput map[string]string) error {
	idToValue := make(map[string]string, len(idToInput))
	for id, input := range idToInput {
		if input == "" {
			return fmt.Errorf("cookie: table has nothing to digest for target %q", id)
		}
		mac := hmac.New(c.hash.New, c.key)
		mac.Write([]byte(input))
		idToValue[id] = hex.EncodeToString(mac.Sum(nil))
	}
	return c.table.Store(idToValue)
}
