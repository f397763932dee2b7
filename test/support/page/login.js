// After a wrong login, the user name stays.
const { username, password } = document.querySelector('form').elements
document.querySelector('form').addEventListener('submit', () => { sessionStorage.setItem('username', username.value) })
if (window.location.search !== '') {
  username.value = sessionStorage.getItem('username') ?? ''
  if (username.value !== '') password.focus()
}
