module github.com/stickylb/stickylb/examples/http3

go 1.26.0

require (
	github.com/chromedp/chromedp v0.22.1
	github.com/quic-go/quic-go v0.65.0
	github.com/stickylb/stickylb v0.1.0
	github.com/stickylb/stickylb/examples/browsertest v0.1.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/net v0.62.0
)

require (
	github.com/chromedp/cdproto v0.159.0 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/pires/go-proxyproto v0.15.0 // indirect
	github.com/quic-go/qpack v0.6.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace (
	github.com/stickylb/stickylb => ../..
	github.com/stickylb/stickylb/examples/browsertest => ../browsertest
)
