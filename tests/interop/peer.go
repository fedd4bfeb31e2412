// One end of a TLS 1.3 connection by Go's standard library: peer client|server ADDRESS CERTIFICATE KEY TRUST GROUP.
// A server prints its address first. The client says "ping", the server "pong"; both print what was negotiated.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
)

var groups = map[string]tls.CurveID{
	"X25519MLKEM768":     tls.X25519MLKEM768,
	"SecP256r1MLKEM768":  tls.SecP256r1MLKEM768,
	"SecP384r1MLKEM1024": tls.SecP384r1MLKEM1024,
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	mode, address, group := os.Args[1], os.Args[2], os.Args[6]
	certificate, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
	check(err)
	pem, err := os.ReadFile(os.Args[5])
	check(err)
	trust := x509.NewCertPool()
	if !trust.AppendCertsFromPEM(pem) {
		fmt.Fprintln(os.Stderr, "the trust file is refused")
		os.Exit(1)
	}
	curve, known := groups[group]
	if !known {
		fmt.Fprintln(os.Stderr, "Go has no group", group)
		os.Exit(1)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate}, RootCAs: trust, ClientCAs: trust, ServerName: "localhost",
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{curve},
	}
	var connection *tls.Conn
	say, expect := "ping", "pong"
	if mode == "server" {
		say, expect = "pong", "ping"
		listener, err := tls.Listen("tcp", address, config)
		check(err)
		fmt.Println(listener.Addr())
		accepted, err := listener.Accept()
		check(err)
		connection = accepted.(*tls.Conn)
	} else {
		connection, err = tls.Dial("tcp", address, config)
		check(err)
		_, err = io.WriteString(connection, say)
		check(err)
	}
	heard := make([]byte, 4)
	_, err = io.ReadFull(connection, heard)
	check(err)
	if string(heard) != expect {
		fmt.Fprintln(os.Stderr, "heard", string(heard))
		os.Exit(1)
	}
	if mode == "server" {
		_, err = io.WriteString(connection, say)
		check(err)
	}
	state := connection.ConnectionState()
	fmt.Println(state.CurveID, state.PeerCertificates[0].SignatureAlgorithm)
	connection.Close()
}
