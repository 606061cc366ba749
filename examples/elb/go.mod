module github.com/stickylb/stickylb/examples/elb

go 1.26.0

replace github.com/stickylb/stickylb => ../..

require (
	github.com/aws/smithy-go/aws-http-auth v1.2.2
	github.com/stickylb/stickylb v0.1.0
	golang.org/x/net v0.62.0
)

require (
	github.com/pires/go-proxyproto v0.15.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
