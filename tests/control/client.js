// What a user of toxiproxy-node-client does, against the server whose URL is the first argument.
// Prints what came of it as one line of JSON.
const { Toxiproxy } = require("toxiproxy-node-client");

async function main() {
  const [url, upstream] = process.argv.slice(2);
  const server = new Toxiproxy(url);
  const seen = { version: JSON.parse(await server.getVersion()).version };

  const made = await server.populate([
    { name: "a", listen: "127.0.0.1:0", upstream },
    { name: "b", listen: "127.0.0.1:0", upstream, enabled: false },
  ]);
  seen.populated = Object.values(made).map((proxy) => [proxy.name, proxy.enabled]);

  const proxy = await server.createProxy({ name: "c", listen: "127.0.0.1:0", upstream });
  seen.listen = (await server.get("c")).listen === proxy.listen && !proxy.listen.endsWith(":0");
  seen.refused = await server
    .createProxy({ name: "c", listen: "127.0.0.1:0", upstream })
    .catch((error) => error.message);

  const toxic = await proxy.addToxic({
    name: "lag", type: "latency", stream: "upstream", toxicity: 1.0,
    attributes: { latency: 100, jitter: 10 },
  });
  const updated = await toxic.update({ attributes: { latency: 200 } });
  seen.updated = updated.attributes;
  seen.shown = (await proxy.getToxic("lag")).toJson();
  await updated.remove();
  seen.removed = await proxy.getToxic("lag").catch((error) => error.message);

  await proxy.addToxic({
    name: "at-virtio-net", type: "migration_fault", stream: "upstream", toxicity: 1.0,
    attributes: { at: { section: "*/virtio-net" }, do: "reset" },
  });
  const disabled = await proxy.update({ ...proxy.toJson(), enabled: false });
  seen.disabled = disabled.enabled;
  await server.reset();
  const all = await server.getAll();
  seen.all = Object.keys(all).sort().map((name) => all[name].enabled);
  seen.toxics = (await server.getApi().get(`${url}/proxies/c/toxics`)).data;
  await all.c.remove();
  seen.left = Object.keys(await server.getAll()).sort();
  console.log(JSON.stringify(seen));
}

main();
