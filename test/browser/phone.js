// SPDX-License-Identifier: ISC
// A SIP phone in a web page. It tells the test what happens (POST event) and asks it what to do
// (GET command, which waits). Its address and its server are the page's parameters.
import { Messager, Registerer, UserAgent } from "/sip.js/lib/index.js";

const page = new URLSearchParams(location.search);

function tell(what, more = {}) {
	return fetch("/event", { method: "POST", body: JSON.stringify({ what, ...more }) });
}

addEventListener("error", (event) => tell("error", { text: event.message }));
addEventListener("unhandledrejection", (event) => tell("error", { text: String(event.reason) }));

const agent = new UserAgent({
	uri: UserAgent.makeURI(page.get("aor")),
	transportOptions: { server: page.get("server") },
	logBuiltinEnabled: page.has("verbose"),
	delegate: {
		onConnect: () => tell("connected"),
		onDisconnect: (error) => tell("disconnected", { text: String(error ?? "") }),
		onMessage: async (message) => {
			await message.accept();
			tell("message", { from: message.request.from.uri.toString(), body: message.request.body });
		},
	},
});
const registerer = new Registerer(agent, { expires: 300 });
registerer.stateChange.addListener((state) => tell("registration", { state }));

const commands = {
	register: () => registerer.register(),
	unregister: () => registerer.unregister(),
	message: ({ to, body }) =>
		new Messager(agent, UserAgent.makeURI(to), body).message({
			requestDelegate: {
				onAccept: (answer) => tell("answer", { status: answer.message.statusCode }),
				onReject: (answer) => tell("answer", { status: answer.message.statusCode }),
			},
		}),
	stop: () => agent.stop(),
};

await agent.start().catch((problem) => tell("error", { text: String(problem) }));
for (;;) {
	const command = await (await fetch("/command")).json();
	if (command.what)
		await commands[command.what](command);
}
