// Leaves out what of a run is not published before it is sent, and shows how far the upload is. Without this script the form works too.
"use strict";
const form = document.getElementById("publish");
const bar = form.querySelector("progress");
const state = form.querySelector(".state");
const wanted = /^[^/]*\/?(model|tokenizer|export)\/|^[^/]*\/?(recipe\.yaml|evaluation\.json|README\.md|config\.json|data\/stats\.json)$|^[^/]+\/?[^/]*\.(safetensors|json|txt|jinja)$/;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const data = new FormData(form);
  const files = data.getAll("files").filter((file) => file.name && wanted.test(file.webkitRelativePath || file.name));
  data.delete("files");
  files.forEach((file) => data.append("files", file, file.webkitRelativePath || file.name));
  const request = new XMLHttpRequest();
  request.upload.addEventListener("progress", (at) => {
    bar.hidden = false;
    bar.max = at.total;
    bar.value = at.loaded;
    state.textContent = at.loaded < at.total ? `${(100 * at.loaded / at.total).toFixed(0)} % of ${files.length} files is sent` : "Sent; it is looked through and stored …";
  });
  request.addEventListener("load", () => {
    if (request.status < 300) {
      window.location.assign(request.responseURL);
      return;
    }
    const message = new DOMParser().parseFromString(request.responseText, "text/html").querySelector("[role=alert]");
    state.textContent = message ? message.textContent : `The store answered ${request.status}.`;
    form.querySelector("button").disabled = false;
  });
  request.addEventListener("error", () => {
    state.textContent = "The connection broke; publish again: what has been stored is not stored twice.";
    form.querySelector("button").disabled = false;
  });
  form.querySelector("button").disabled = true;
  request.open("POST", form.action);
  request.setRequestHeader("X-CSRF-Token", data.get("csrf"));
  request.send(data);
});
