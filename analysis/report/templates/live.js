// A newer page is shown once it is there, unless the command of a point is being read.
const drawn = fetch("version").then((answer) => answer.text());
setInterval(async () => {
  try {
    const now = await (await fetch("version", { cache: "no-store" })).text();
    if (now !== await drawn && details.hidden) location.reload();
  } catch { /* the server is gone: the page stays as it is */ }
}, 5000);
