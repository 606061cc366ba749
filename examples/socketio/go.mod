module github.com/stickylb/stickylb/examples/socketio

go 1.26.0

require (
	github.com/stickylb/stickylb v0.1.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/pires/go-proxyproto v0.15.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/stickylb/stickylb => ../..
