// Every JavaScript block of the README and the docs is a program that runs.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../", import.meta.url);
const docs = new URL("docs/", root);
const pages = [new URL("README.md", root), ...readdirSync(docs).map((name) => new URL(name, docs))];
let found = 0;

for (const page of pages.filter((each) => each.pathname.endsWith(".md"))) {
  for (const [, program] of readFileSync(page, "utf8").matchAll(/^```js\n(.*?)^```$/gms)) {
    found += 1;
    test(`${page.pathname.split("/").pop()}: ${program.split("\n")[0]}`, () => {
      const options = { cwd: new URL(".", import.meta.url), input: program, encoding: "utf8", timeout: 30_000 };
      const ended = spawnSync(process.execPath, ["--input-type=module", "-"], options);
      assert.equal(ended.status, 0, `${ended.stdout}\n${ended.stderr}`);
      assert.match(ended.stdout, /\S/, "it shows something");
    });
  }
}

test("there are such blocks", () => assert.ok(found > 0));
