package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
)

// policy asks a Postfix policy server, as Postfix's smtpd does: one connection for each request in flight, dealt to the
// endpoints in turn. Mode inet or unix: what the endpoints are.
type policy struct {
	connection net.Conn
	in         *bufio.Reader
}

func openPolicy(o options) ([]checker, error) {
	network := map[string]string{"inet": "tcp", "unix": "unix"}[o.mode]
	checkers := make([]checker, o.inFlight)
	for i := range checkers {
		connection, err := net.Dial(network, o.endpoints[i%len(o.endpoints)])
		if err != nil {
			return nil, err
		}
		checkers[i] = &policy{connection, bufio.NewReader(connection)}
	}
	return checkers, nil
}

func (p *policy) check(ctx context.Context, keys []string) (int, error) {
	deadline, _ := ctx.Deadline()
	if err := p.connection.SetDeadline(deadline); err != nil {
		return 0, err
	}
	conflicts := 0
	for _, key := range keys {
		sender := strings.Split(key, "/")[2]
		_, err := fmt.Fprintf(p.connection, "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"+
			"client_address=192.0.2.7\nclient_name=mail.example\nreverse_client_name=mail.example\nhelo_name=mail.example\n"+
			"sender=%s\nrecipient=recipient@example.test\ninstance=%s\n\n", sender, sender)
		if err != nil {
			return 0, err
		}
		told, err := p.in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if _, err = p.in.ReadString('\n'); err != nil {
			return 0, err
		}
		if !strings.Contains(strings.ToLower(told), "defer") { // every triplet is new
			conflicts++
		}
	}
	return conflicts, nil
}
