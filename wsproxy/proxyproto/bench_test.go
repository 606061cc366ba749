package proxyproto_test

import (
	"bytes"
	"testing"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

func BenchmarkParse(b *testing.B) {
	padding := append(unhex(sig+"21110ffc c0a80001c0a8000bdc0401bb"), bytes.Repeat([]byte{4, 0, 0}, (0xffc-12)/3)...)
	for _, bench := range []struct {
		name  string
		bytes []byte
	}{
		{"v1", worked["v1"].bytes},
		{"v2", worked["v2 TCP4"].bytes},
		{"v2-tls", worked["v2 CRC32C, TLS and a certificate"].bytes},
		{"hostile=padding", padding},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := proxyproto.Parse(bench.bytes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHeaderAppendBinary(b *testing.B) {
	for _, name := range []string{"v1", "v2 TCP4", "v2 CRC32C, TLS and a certificate"} {
		b.Run(name, func(b *testing.B) {
			h := worked[name].header
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.AppendBinary(nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
